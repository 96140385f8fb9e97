"""`llava_sea.alignment` is for any training loop: torch, numpy and the standard library alone."""

import subprocess
import sys

CODE = """
import sys, torch, numpy
before = set(sys.modules)
import llava_sea.alignment
added = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(added - {"llava_sea"} - set(sys.stdlib_module_names) - {"torch", "numpy"}))
"""


def test_nothing_else_is_imported():
    output = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"
