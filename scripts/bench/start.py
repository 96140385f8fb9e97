"""How long users wait before anything happens: `import llava_sea.alignment`, `--help` of commands.

`python scripts/bench/start.py [--quick]`. Each in a fresh process, the best of several; a command
is every module of `llava_sea` and `playground` with an ``if __name__ == "__main__"``. Limits: files
are in the page cache after the first start, and the interpreter's bytecode is written.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from common.rows import Row, run_bench

REPO = Path(__file__).parents[2]
ALIGNMENT = "import llava_sea.alignment"
QUICK = (
    "llava_sea.labels.extract",
    "llava_sea.model.export",
    "llava_sea.train.launch",
    "llava_sea.train.train_mem",
    "playground.build",
)
"""With --quick these alone: the slowest of those that import the same."""


def commands() -> list[str]:
    """Names of the modules with a command line, as `python -m` takes them."""
    found = []
    for package in ("llava_sea", "playground"):
        for path in sorted((REPO / package).rglob("*.py")):
            if 'if __name__ == "__main__":' in path.read_text():
                name = ".".join(path.relative_to(REPO).with_suffix("").parts)
                found.append(name.removesuffix(".__main__"))
    return found


def seconds(*arguments: str) -> float:
    """Run Python once and time it.

    Raises:
        RuntimeError: if it fails.
    """
    env = os.environ | {"PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=env)
    taken = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"python {' '.join(arguments)} failed: {done.stderr[-2000:]}")
    return taken


def measure(args: argparse.Namespace) -> list[Row]:
    """All rows."""
    rounds = 2 if args.quick else 10
    seconds("-c", f"import torch; {ALIGNMENT}")
    bare, ours = float("inf"), float("inf")
    for _ in range(rounds):
        bare = min(bare, seconds("-c", "import torch"))
        ours = min(ours, seconds("-c", f"import torch; {ALIGNMENT}"))
    note = f"{ours:.2f} s against {bare:.2f} s, best of {rounds}"
    rows = [Row(f"{ALIGNMENT}: over import torch, s", max(ours - bare, 0.0), 0.3, note=note)]
    slowest = {}
    for name in QUICK if args.quick else commands():
        best = min(seconds("-m", name, "--help") for _ in range(1 if args.quick else 3))
        slowest[name] = best
        if not args.quick:
            rows.append(Row(f"python -m {name} --help, s", best, 5.0))
    name = max(slowest, key=lambda command: slowest[command])
    note = f"python -m {name}"
    rows.append(Row(f"slowest --help of {len(slowest)} commands, s", slowest[name], 5.0, note=note))
    return rows


if __name__ == "__main__":
    run_bench("start", __doc__, measure, cuda=False)
