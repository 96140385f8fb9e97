"""Errors that are the user's to fix, and how commands show them.

A `UserError` names the file, the record or the flag and the way out. Commands print its text alone:
a traceback would hide the one line that helps. A write that failed is told in the same manner.
Any other exception is a defect of this package and keeps its traceback.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import importlib
import os
import re
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llava_sea.terminal import say

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_CANNOT_WRITE = _FULL | {errno.EROFS, errno.EACCES, errno.EPERM}
_CANNOT_WRITE |= {errno.ENAMETOOLONG, errno.EISDIR}
_TORCH_CANNOT_WRITE = re.compile("PytorchStreamWriter|unexpected pos|iostream error")

KEPT = "What was complete on disk before stays as it is"

ERROR_FILE = "LLAVA_SEA_ERROR_FILE"
"""Environment variable naming a file for each error's line, which a launcher repeats at the end."""

EXIT_STATUS = 128 + signal.SIGTERM
"""Of a run that was told to end (SIGTERM) and saved a checkpoint."""


class UserError(ValueError):
    """The user's files or flags are wrong; the text says what, where and the way out."""


def _say(text: str) -> None:
    rank = os.environ.get("RANK", "0")
    line = f"error: {text}" if rank == "0" else f"[rank {rank}] error: {text}"
    say(line, file=sys.stderr)
    if ERROR_FILE in os.environ:
        with contextlib.suppress(OSError), open(os.environ[ERROR_FILE], "a") as file:
            say(line, file=file)


def failed_write(error: BaseException, place: Path | None = None) -> OSError | None:
    """Return the OSError of a write that failed, None for an error of another kind.

    The libraries that write tensors and tokenizers raise errors of their own. Rust's hold the
    system's number; torch's hold none, so the disk is looked at. `place` is the file or folder, for
    an error that names none.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (told := re.search(r"\(os error (\d+)\)", str(error))):
        number = int(told[1])
    if isinstance(error, RuntimeError) and _TORCH_CANNOT_WRITE.search(str(error)):
        full = place is not None and _free(place) < 1 << 20
        number = errno.ENOSPC if full else errno.EFBIG if _largest_file() else errno.EIO
    if number not in _CANNOT_WRITE:
        return None
    if isinstance(error, OSError) and (error.filename or place is None):
        return error
    return OSError(number, os.strerror(number), *([str(place)] if place else []))


def newest_file(folder: Path) -> Path:
    """Return the file that was written last: where a write failed without a name, it was this."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return max(files, key=lambda path: path.stat().st_mtime_ns, default=folder)


@contextlib.contextmanager
def naming(place: Path, *, newest: bool = False) -> Iterator[None]:
    """Name a file or folder in the error of a write that fails within, if it names none.

    `newest` names the folder's newest file instead.

    Raises:
        OSError: for a write that failed, whatever was raised.
    """
    try:
        yield
    except Exception as error:
        failed = failed_write(error, newest_file(place) if newest else place)
        if failed is None or failed is error:
            raise
        raise failed from error


def cannot_write(error: OSError, kept: str = KEPT) -> str:
    """Say which file could not be written and why, what is not lost, and the way out."""
    text = f"{error.filename or 'a file cannot be written'}: {error.strerror or error}"
    if error.errno == errno.EFBIG and (limit := _largest_file()):
        text += f" (a file may have {limit:,} bytes: ulimit -f)"
    elif error.errno in _FULL and error.filename:
        text += f" ({_free(Path(str(error.filename))) / 1e9:.2f} GB are free there)"
    return f"{text}. {kept}: make room or fix the folder, then start the same command again"


def _free(place: Path) -> int:
    there = next((path for path in (place, *place.absolute().parents) if path.exists()), Path("/"))
    return shutil.disk_usage(there).free


def _largest_file() -> int | None:
    """The limit that the shell has set, if there is one."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def run_command(main: Callable[[], object]) -> None:
    """Run a command's `main`; a `UserError` becomes one line on stderr and exit status 2.

    So does a write that failed. A rank ends here, without the interpreter's teardown: threads of
    its process group that drop tensors then abort the process (PyTorch issue 179291).
    """
    status: Any = 0
    try:
        main()
    except SystemExit as end:
        status = end.code
    except UserError as error:
        _say(str(error))
        status = 2
    except Exception as error:
        failed = failed_write(error)
        if failed is None:
            raise
        _say(cannot_write(failed))
        status = 2
    if "RANK" in os.environ and (status is None or isinstance(status, int)):
        atexit._run_exitfuncs()  # trackers and loggers write their last here
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status or 0)
    if status:
        raise SystemExit(status)


def import_extra(module: str, extra: str) -> Any:
    """Import a library that not every installation has; a UserError says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f'{error}; install it with: pip install -e ".[{extra}]"') from None
