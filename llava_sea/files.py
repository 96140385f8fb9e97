"""Files that are whole or not there, output folders of one writer. Standard library only."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from llava_sea.errors import UserError, naming

try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None  # type: ignore[assignment]

_ALONGSIDE = re.compile(r"\..*|.*\.(log|out|err|txt|sh)")
"""Hidden files, logs and copies of the command: no writer has such names, none is in its way."""

_locked: set[IO[bytes]] = set()

logger = logging.getLogger(__name__)


@contextmanager
def open_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing whose name appears only when every byte of it is on disk.

    Whatever ends the writing early, an error or a kill, an earlier file stays as it is.
    """
    remove_left_overs(path.parent, rf"\.{re.escape(path.name)}\.(\d+)\.tmp")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except OSError as error:
        if error.filename == str(temporary):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file as `open_atomically` does."""
    with open_atomically(path) as file:
        file.write(data)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def remove_left_overs(folder: Path, pattern: str) -> None:
    """Remove what processes that were killed left in a folder.

    Args:
        folder: where; it need not be there.
        pattern: of the names of files and folders; its first group is their writer's process id.
    """
    with suppress(OSError):
        for name in os.listdir(folder):
            found = re.fullmatch(pattern, name)
            # Processes of a container may have one id in turn: ours may be a killed one's.
            if found and (int(found[1]) == os.getpid() or not is_alive(int(found[1]))):
                remove(folder / name)


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def is_alive(pid: int) -> bool:
    """Say whether a process of this machine runs; one that was killed and not reaped does not."""
    try:
        os.kill(pid, 0)
        # after the name in parentheses, which may hold anything, stands the state
        return not Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].startswith(b" Z")
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's, or a system without /proc
        return True


@contextmanager
def only_writer(path: Path, busy: str, patience: float = 0.0) -> Iterator[bool]:
    """Hold a file against other processes; the system lets go when this one ends, however it ends.

    Args:
        path: the file, made if it is not there.
        busy: the error's text.
        patience: seconds to wait for another process to end.

    Yields:
        Whether it is held; False on a file system without locks.

    Raises:
        UserError: if another process holds it.
    """
    end = time.monotonic() + patience
    with open(path, "a+b") as file:
        held = _lock(file)
        if held is None and patience:
            logger.warning("%s is held by another process; waiting for its end", path.parent)
        while held is None:
            if time.monotonic() >= end:
                raise UserError(busy)
            time.sleep(0.2)
            held = _lock(file)
        _locked.add(file)
        try:
            yield held
        finally:
            _locked.discard(file)
            if held:
                with suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_UN)


def _lock(file: IO[bytes]) -> bool | None:
    """Return whether the file is locked now: False where there are no locks, None if it was."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError:
        return False
    return True


def _let_go() -> None:
    """A forked data worker must not hold what its parent holds: it may outlive it."""
    for file in _locked:
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def check_folder(folder: Path, flag: str) -> None:
    """Refuse an output folder that is a file, or below one.

    Raises:
        UserError: naming the flag.
    """
    for place in (folder, *folder.parents):
        if os.path.lexists(place) and not place.is_dir():
            raise UserError(
                f"{flag} {folder}: {'it' if place == folder else place} is a file, no folder; "
                "choose another place"
            )


def refuse_other_things(folder: Path, flag: str, ours: Collection[str] = ()) -> None:
    """Refuse an output folder that holds anything that its writer did not write.

    Args:
        folder: the folder; it need not be there.
        flag: what named it.
        ours: names that are the writer's own. Hidden files and logs are passed over.

    Raises:
        UserError: naming what it holds, or if it is no folder.
    """
    check_folder(folder, flag)
    if not folder.is_dir():
        return
    names = sorted(path.name for path in folder.iterdir())
    other = [name for name in names if name not in ours and not _ALONGSIDE.fullmatch(name)]
    if other:
        more = f" and {len(other) - 5} more" if len(other) > 5 else ""
        raise UserError(
            f"{flag} {folder}: holds other things ({', '.join(other[:5])}{more}). Nothing was "
            "changed; choose another folder, or empty this one"
        )
