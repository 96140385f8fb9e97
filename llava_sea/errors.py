"""Errors that are the user's to mend, and how commands show them.

A `UserError` names the file, the record or the flag and the way out. Commands print its text alone:
a traceback would hide the one line that helps. Any other exception is a defect of this package and
keeps its traceback.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}


class UserError(ValueError):
    """The user's files or flags are wrong; the text says what, where and the way out."""


def _rank() -> str:
    """Several processes of a run may say the same: all but the first say which they are."""
    rank = os.environ.get("RANK", "0")
    return "" if rank == "0" else f"[rank {rank}] "


def run_command(main: Callable[[], object]) -> None:
    """Run a command's `main`; a `UserError` becomes one line on stderr and exit status 2."""
    try:
        main()
    except UserError as error:
        # A data worker's error arrives with the worker's traceback around its text.
        text = str(error).strip().rpartition("UserError: ")[2]
        print(f"{_rank()}error: {text}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(
            f"{_rank()}error: {place}{error.strerror}. What was complete on disk before stays as "
            "it is; make room or mend the folder, then start the same command again",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
