"""An image's labels as one row of bytes, read from its file by offset: 5 bytes an entry.

A row holds a checksum, the image file's CRC-32, the low 16 bits of its word ids, their float16
scores and the high 8 bits of the ids; ids of lists of more than 2**24 words take 4 bytes instead.
Scores are rounded: the order of a patch's words stays, a share of eq. 9 moves by less than 0.2 %.

The checksum is the CRC-32 of the image's name and of all that follows in the row. It is compared at
every read, so neither a damaged row nor an index that points to another row is taken for the
image's labels.

A row is read by one pread of just its bytes. Through a mapping every first touch of a page also
reads what lies around it, up to the disk's read-ahead (128 KiB, on many cloud disks 8 MiB), which
for random images is never used.

Shape letters: I images of a shard, P patches, N labels a patch.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_SMALL_IDS = 1 << 24
_MAGIC, _HEAD = b"\x93NUMPY\x01", 10
"""How a .npy file begins; the last two of these ten bytes are the length of the header's rest."""


class Labels(NamedTuple):
    """One image's labels: ids uint32 and scores float16 ``(P, N)``, score 0 where dropped."""

    ids_PN: NDArray[np.uint32]
    scores_PN: NDArray[np.float16]
    crc32: int


def row_dtype(patches: int, top_n: int, id_bytes: int) -> np.dtype[Any]:
    """Return the layout of a row; `id_bytes` is 3 or 4."""
    shape = (patches, top_n)
    fields: list[Any] = [("check", "<u4"), ("crc", "<u4")]
    fields += [("low", "<u2", shape), ("scores", "<f2", shape)]
    fields.append(("high", "u1" if id_bytes == 3 else "<u2", shape))
    # Rounded up to whole 4 bytes, so that no row's numbers lie across their natural places.
    return np.dtype(fields, align=True)


def pack_rows(
    images: Sequence[str],
    ids_IPN: NDArray[np.unsignedinteger],
    scores_IPN: NDArray[np.floating],
    crc_I: NDArray[np.unsignedinteger],
) -> tuple[NDArray[Any], int]:
    """Return a shard's rows ``(I,)`` and the bytes an id takes in them; raises as `write_shard`."""
    largest = ids_IPN.max(initial=0)
    if largest >= 1 << 32 or ids_IPN.min(initial=0) < 0:
        wrong_I = ((ids_IPN < 0) | (ids_IPN >= 1 << 32)).any((1, 2))
        raise ValueError(f"{images[int(wrong_I.argmax())]!r}: a word id is not in 0 .. 2**32 - 1")
    id_bytes = 3 if largest < _SMALL_IDS else 4
    ids_IPN = ids_IPN.astype(np.uint32)
    count, patches, top_n = ids_IPN.shape
    rows_I = np.zeros(count, row_dtype(patches, top_n, id_bytes))
    rows_I["crc"] = crc_I
    rows_I["low"] = ids_IPN & 0xFFFF
    rows_I["high"] = ids_IPN >> 16
    with np.errstate(over="ignore"):
        rows_I["scores"] = np.maximum(scores_IPN, 0)
    finite_IPN = np.isfinite(rows_I["scores"])
    if not finite_IPN.all():
        place = tuple(np.argwhere(~finite_IPN)[0])
        image, score = images[int(place[0])], scores_IPN[place]
        raise ValueError(f"{image!r}: a score is {score}, no number that a float16 holds")
    for row, name in zip(rows_I, images, strict=True):
        row["check"] = _checksum(row, name)
    return rows_I, id_bytes


def unpack_row(row: Any, image: str) -> Labels:
    """Return the labels of a row; a ValueError if it was not written for this image."""
    if int(row["check"]) != _checksum(row, image):
        raise ValueError("its checksum is wrong")
    ids_PN = row["high"].astype(np.uint32)
    ids_PN <<= 16
    ids_PN |= row["low"]
    return Labels(ids_PN, row["scores"], int(row["crc"]))


def _checksum(row: Any, image: str) -> int:
    return zlib.crc32(row.tobytes()[4:], zlib.crc32(image.encode(errors="surrogatepass")))


class RowFile:
    """The rows of a .npy file; nothing is read but the header and the rows that are asked for.

    The file is opened for each read: a corpus has thousands of shards, and a process may hold
    1,024 files open on most machines.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], rows: int) -> None:
        """Open it; a ValueError if its header or size is not that of so many rows."""
        self.path = path
        self._dtype = dtype
        head = self._read(_HEAD, 0)
        self.start = _HEAD + int.from_bytes(head[8:], "little")
        expected = self.start + rows * dtype.itemsize
        if not head.startswith(_MAGIC) or path.stat().st_size != expected:
            raise ValueError(f"{path.name} has the wrong size")

    def __getitem__(self, row: int) -> Any:
        """Read a row; a ValueError if the file has become shorter, an OSError if it is gone."""
        size = self._dtype.itemsize
        data = self._read(size, self.start + row * size)
        if len(data) != size:
            raise ValueError(f"{self.path.name} ends before its row {row}")
        return np.frombuffer(data, self._dtype)[0]

    def _read(self, size: int, place: int) -> bytes:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            return os.pread(descriptor, size, place)
        finally:
            os.close(descriptor)
