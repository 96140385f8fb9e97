"""How commands end: one line for the user's errors, a traceback for ours."""

import errno

import pytest

from llava_sea.errors import UserError, run_command


def raising(error):
    def main():
        raise error

    return main


def test_a_users_error_is_one_line(capsys):
    with pytest.raises(SystemExit) as end:
        run_command(raising(UserError("--flag x: no")))
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: --flag x: no\n"


def test_later_ranks_say_which_they_are(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit):
        run_command(raising(UserError("no")))
    assert capsys.readouterr().err == "[rank 1] error: no\n"


def test_a_full_disk_is_the_users_to_mend(capsys):
    with pytest.raises(SystemExit) as end:
        run_command(raising(OSError(errno.ENOSPC, "No space left on device", "/disk/file")))
    assert end.value.code == 2
    assert "/disk/file: No space left on device" in capsys.readouterr().err


def test_other_errors_are_ours():
    with pytest.raises(FileNotFoundError):
        run_command(raising(FileNotFoundError(errno.ENOENT, "gone", "x")))
    with pytest.raises(ZeroDivisionError):
        run_command(raising(ZeroDivisionError()))
