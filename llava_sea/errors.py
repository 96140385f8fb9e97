"""Errors that are the user's to mend, and how commands show them.

A `UserError` names the file, the record or the flag and the way out. Commands print its text alone:
a traceback would hide the one line that helps. Any other exception is a defect of this package and
keeps its traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(ValueError):
    """The user's files or flags are wrong; the text says what, where and the way out."""


def run_command(main: Callable[[], object]) -> None:
    """Run a command's `main`; a `UserError` becomes one line on stderr and exit status 2."""
    try:
        main()
    except UserError as error:
        # A data worker's error arrives with the worker's traceback around its text.
        text = str(error).strip().rpartition("UserError: ")[2]
        print(f"error: {text}", file=sys.stderr)
        raise SystemExit(2) from None
