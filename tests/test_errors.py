"""How commands end: one line for the user's errors, a traceback for ours."""

import errno
import os
import subprocess
import sys

import pytest

from llava_sea.errors import UserError, run_command


def raising(error):
    def main():
        raise error

    return main


def test_a_users_error_is_one_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        run_command(raising(UserError("--flag x: no")))
    assert capsys.readouterr().err == "error: --flag x: no\n"


RANK = """
import atexit, os
from llava_sea.errors import UserError, run_command

class AbortsInTeardown:
    def __del__(self, abort=os.abort):
        abort()

aborts = AbortsInTeardown()
atexit.register(print, "tracker ended")

def main():
    print("done", end=", ")
    {end}

run_command(main)
"""


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        ("pass", 0, ""),
        ("raise SystemExit(143)", 143, ""),
        ("raise UserError('no')", 2, "[rank 1] error: no\n"),  # later ranks say which they are
    ],
)
def test_a_rank_ends_before_the_interpreters_teardown(end, status, said):
    command = [sys.executable, "-c", RANK.format(end=end)]
    ended = subprocess.run(command, env=os.environ | {"RANK": "1"}, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (status, said)
    assert ended.stdout == "done, tracker ended\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/disk/file"), "/disk/file: No space"),
        (OSError(errno.EROFS, "Read-only file system", "/disk/file"), "/disk/file: Read-only"),
        (OSError(errno.EISDIR, "Is a directory", "/disk/file"), "/disk/file: Is a directory"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/aaa"), "/aaa: File name too long"),
        (Exception("I/O error: File too large (os error 27)"), "File too large"),
        (RuntimeError("PytorchStreamWriter failed writing file data/3"), "a file"),
    ],
)
def test_a_full_disk_is_the_users_to_fix(capsys, error, said):
    with pytest.raises(SystemExit, match="2"):
        run_command(raising(error))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line and "start the same command again" in line


def test_other_errors_are_ours():
    with pytest.raises(FileNotFoundError):
        run_command(raising(FileNotFoundError(errno.ENOENT, "gone", "x")))
    with pytest.raises(ZeroDivisionError):
        run_command(raising(ZeroDivisionError()))
