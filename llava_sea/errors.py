"""Errors that are the user's to mend, and how commands show them.

A `UserError` names the file, the record or the flag and the way out. Commands print its text alone:
a traceback would hide the one line that helps. Any other exception is a defect of this package and
keeps its traceback.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable

from llava_sea.terminal import say

_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}


ERROR_FILE = "LLAVA_SEA_ERROR_FILE"
"""Environment variable naming a file that each error's line is added to.

A launcher of several processes repeats it at the end, below the tracebacks of the others.
"""


EXIT_STATUS = 128 + signal.SIGTERM
"""Of a run that was told to end (SIGTERM) and saved a checkpoint."""


class UserError(ValueError):
    """The user's files or flags are wrong; the text says what, where and the way out."""


def _rank() -> str:
    """Several processes of a run may say the same: all but the first say which they are."""
    rank = os.environ.get("RANK", "0")
    return "" if rank == "0" else f"[rank {rank}] "


def _say(text: str) -> None:
    line = f"{_rank()}error: {text}"
    say(line, file=sys.stderr)
    if ERROR_FILE in os.environ:
        with contextlib.suppress(OSError), open(os.environ[ERROR_FILE], "a") as file:
            say(line, file=file)


def run_command(main: Callable[[], object]) -> None:
    """Run a command's `main`; a `UserError` becomes one line on stderr and exit status 2."""
    try:
        main()
    except UserError as error:
        _say(str(error))
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _say(
            f"{place}{error.strerror}. What was complete on disk before stays as it is; make room "
            "or mend the folder, then start the same command again"
        )
        raise SystemExit(2) from None
