"""How commands end: one line for the user's errors, a traceback for ours."""

import errno

import pytest

from llava_sea.errors import UserError, run_command


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(("rank", "said"), [("0", ""), ("1", "[rank 1] ")])
def test_a_users_error_is_one_line(capsys, monkeypatch, rank, said):
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit, match="2"):
        run_command(raising(UserError("--flag x: no")))
    assert capsys.readouterr().err == f"{said}error: --flag x: no\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/disk/file"), "/disk/file: No space"),
        (OSError(errno.EROFS, "Read-only file system", "/disk/file"), "/disk/file: Read-only"),
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
