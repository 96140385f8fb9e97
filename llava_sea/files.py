"""Files that users name are read here; files that are whole or not there, and their checksums.

A name may lead to anything: a link to /dev/zero is read for ever, a pipe blocks for ever. Only
regular files are opened (a link to one is as good), and no more of one is read than its kind needs.
Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from llava_sea.errors import UserError

IMAGE_BYTES = 512 * 2**20
"""Limit of an image file; uncompressed, the most pixels that are taken fit (RGB: 256 MiB)."""

SETTINGS_BYTES = 256 * 2**20
"""Limit of a JSON file of settings or scores: a large tokenizer.json has 35 MiB."""

LIST_BYTES = 2**30
"""Limit of a word list, a log, a file of truth or of grades, all of them held in memory.

Records, questions and answers have none: they may be as large as the memory holds.
"""

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
    """Open a regular file for reading; nothing else is opened, so nothing blocks.

    Args:
        path: the file, or a link to one.
        limit: the most bytes that it may have.

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
    """Return the bytes of a regular file, as many as it has when it is opened.

    Raises:
        UserError: as `open_file`.
    """
    with open_file(path, limit) as file, _named(path):
        return file.read(os.fstat(file.fileno()).st_size)


def read_text(path: str | os.PathLike[str], limit: int | None = LIST_BYTES) -> str:
    """Return the text of a regular file of UTF-8, without a byte-order mark.

    Raises:
        UserError: as `open_file`, or if it is not UTF-8; with the line.
    """
    data = read_file(path, limit)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}: not UTF-8 text (byte {error.start}, line {line}); save it as UTF-8"
        ) from None


def read_json(path: str | os.PathLike[str], limit: int | None = SETTINGS_BYTES) -> Any:
    """Return what a regular file of JSON holds.

    Raises:
        UserError: as `read_text`, or if it is no JSON.
    """
    try:
        return json.loads(read_text(path, limit))
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: broken JSON ({error})") from None


@contextmanager
def open_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing whose name appears only when every byte of it is on disk.

    Whatever ends the writing early, an error or a kill, an earlier file stays as it is.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file as `open_atomically` does."""
    with open_atomically(path) as file:
        file.write(data)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a regular file's bytes, in hexadecimal.

    Raises:
        UserError: as `open_file`.
    """
    digest = hashlib.sha256()
    with open_file(path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
