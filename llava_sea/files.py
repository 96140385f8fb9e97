"""Files that users name are read here; files that are whole or not there; folders of one writer.

A name may lead to anything: a link to /dev/zero is read for ever, a pipe blocks for ever. Only
regular files are opened (a link to one is as good), and no more of one is read than its kind needs.
Standard library only.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from llava_sea.errors import UserError, naming

_ALONGSIDE = re.compile(r"\..*|.*\.(log|out|err|txt|sh)")
"""Hidden files, logs and copies of the command: no writer has such names, none is in its way."""

_locked: set[IO[bytes]] = set()

logger = logging.getLogger(__name__)

# The most bytes of a file. Records and weights are mapped or read in pieces: they may have more.
IMAGE_BYTES = 512 * 2**20  # uncompressed, the most pixels that are taken fit (RGB: 256 MiB)
SETTINGS_BYTES = 256 * 2**20  # JSON of settings or scores: a large tokenizer.json has 35 MiB
LIST_BYTES = 2**30  # words, a log, truth, grades, questions, answers: held in memory
LINE_BYTES = 256 * 2**20  # one record of a file that is read in pieces

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotAFileError(UserError):
    """The name leads to something that is no regular file."""


def open_file(path: str | os.PathLike[str], limit: int | None = None) -> IO[bytes]:
    """Open a regular file of at most `limit` bytes; nothing else is opened, so nothing blocks.

    Raises:
        NotAFileError: if it is a folder, a pipe, a socket or a device.
        UserError: naming it, if it is not there, cannot be read or is larger than the limit.
    """
    with _named(path):
        _check(path, os.stat(path), limit)
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    try:
        _check(path, os.fstat(file.fileno()), limit)  # a moment ago it may have been another
    except BaseException:
        file.close()
        raise
    return file


@contextmanager
def _named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the system says into an error that names the file."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason})") from None


def _check(path: str | os.PathLike[str], found: os.stat_result, limit: int | None) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for is_it, name in _KINDS if is_it(found.st_mode)), "something else")
        raise NotAFileError(f"{path}: is {kind}, not a file; name a regular file, or a link to one")
    if limit is not None and found.st_size > limit:
        raise UserError(
            f"{path}: has {found.st_size:,} bytes, the limit for its kind is {limit:,}; is it the "
            "right file?"
        )


def read_file(path: str | os.PathLike[str], limit: int | None = None) -> bytes:
    """Return a regular file's bytes, as many as it has when opened. Raises as `open_file`."""
    with open_file(path, limit) as file, _named(path):
        return file.read(os.fstat(file.fileno()).st_size)


def read_lines(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """Yield the lines of a regular file with their ends, one in memory at a time.

    Raises:
        UserError: as `open_file`, or if a line is longer than `LINE_BYTES`.
    """
    with open_file(path) as file:
        number = 0
        while line := file.readline(LINE_BYTES + 1):
            number += 1
            if len(line) > LINE_BYTES:
                raise UserError(
                    f"{path}: line {number} has over {LINE_BYTES // 2**20} MiB; is it the right "
                    "file?"
                )
            yield line


def read_text(path: str | os.PathLike[str], limit: int | None = LIST_BYTES) -> str:
    """Return the text of a regular file of UTF-8, without a byte-order mark."""
    data = read_file(path, limit)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}: not UTF-8 text (byte {error.start}, line {line}); save it as UTF-8"
        ) from None


def read_json(path: str | os.PathLike[str], limit: int | None = SETTINGS_BYTES) -> Any:
    """Return what a regular file of JSON holds."""
    try:
        return json.loads(read_text(path, limit))
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: broken JSON ({error})") from None


def read_jsonl(
    path: Path,
    what: str,
    check: Callable[[Any], object],
    way_out: str,
    *,
    cut: bool = False,
) -> list[tuple[int, Any]]:
    """Return the values of JSON lines with the lines' numbers; blank lines are none.

    `check` raises over a value that is not `what`. With `cut` broken JSON in the last line is
    none: a kill cut it off.
    """
    lines = read_text(path).split("\n")
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            check(row)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            if cut and number == len(lines) and isinstance(error, json.JSONDecodeError):
                break
            raise UserError(f"{path}:{number}: not {what} ({error!r}); {way_out}") from error
        rows.append((number, row))
    return rows


def read_object(path: Path, why: str = "") -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Of a file of the package's own `why` says in the error why its damage matters, or the way out.
    """
    try:
        found = read_json(path)
        if not isinstance(found, dict):
            raise UserError(f"{path}: no JSON object")
    except UserError as error:
        if not why:
            raise
        damage = str(error).removeprefix(f"{path}: ")
        raise UserError(f"{path}: damaged ({damage}), {why}") from None
    return found


@contextmanager
def open_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing whose name appears only when every byte of it is on disk.

    Whatever ends the writing early, an error or a kill, an earlier file stays as it is.
    """
    # A writer on another machine may have our process id, and its file is not ours to remove.
    begin = f".{path.name}.{hashlib.sha256(host_name().encode()).hexdigest()[:8]}"
    remove_left_overs(path.parent, rf"{re.escape(begin)}\.(\d+)\.tmp")
    temporary = path.with_name(f"{begin}.{os.getpid()}.tmp")
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
    """Return the SHA-256 of a regular file's bytes, in hexadecimal. Raises as `open_file`."""
    digest = hashlib.sha256()
    with open_file(path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def remove_left_overs(folder: Path, pattern: str) -> None:
    """Remove what processes that were killed left in a folder, which need not be there.

    The first group of `pattern` (of the names of files and folders) is their writer's process id.
    """
    with suppress(OSError):
        for name in os.listdir(folder):
            found = re.fullmatch(pattern, name)
            # Containers give one process's id to the next: ours may be a killed one's.
            if found and (int(found[1]) == os.getpid() or not is_alive(int(found[1]))):
                remove(folder / name)


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def host_name() -> str:
    """Name the place where process ids mean the same: this boot of this machine, this container."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip()]
        parts += [os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


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

    Yields whether it is held: False on a file system without locks.

    Raises:
        UserError: `busy`, if another process holds it after `patience` seconds.
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


os.register_at_fork(after_in_child=_let_go)


def check_folder(folder: Path, flag: str) -> None:
    """Raise a UserError that names the flag if an output folder is a file, or below one."""
    for place in (folder, *folder.parents):
        if os.path.lexists(place) and not place.is_dir():
            raise UserError(
                f"{flag} {folder}: {'it' if place == folder else place} is a file, no folder; "
                "choose another place"
            )


def refuse_other_file(path: Path, flag: str, mark: bytes) -> None:
    """Refuse an output file that holds anything but an earlier output, known by its `mark`."""
    if not path.is_file() or path.stat().st_size == 0:
        return
    with open_file(path) as file:
        if mark not in file.read(1 << 20):
            raise UserError(
                f"{flag} {path}: holds something else than this command writes. Nothing was "
                "changed; choose another name"
            )


def refuse_other_things(folder: Path, flag: str, ours: Collection[str] = ()) -> None:
    """Refuse an output folder that holds anything that its writer did not write.

    `ours` are the writer's own names. Hidden files and logs are passed over.
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
