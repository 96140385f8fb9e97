"""Records of data files, read from disk when they are asked for.

A file is read and checked once, by one process, into a cache (`llava_sea.data.record_cache`).
Ranks, data workers and later runs map it into memory, so a record costs nothing until it is read
and no process holds the corpus. What samplers need, lengths and numbers of images, are columns.
"""

from __future__ import annotations

import hashlib
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from llava_sea.data.problems import RecordError
from llava_sea.data.read_records import parse_records
from llava_sea.data.record_cache import RecordFile, count_words, open_record_file
from llava_sea.data.row_shapes import Record, Turn
from llava_sea.errors import UserError

__all__ = ["Record", "Records", "Turn", "load_records", "open_records", "parse_records"]


def open_records(paths: str | os.PathLike[str] | Sequence[str]) -> Records:
    """Open data files as one corpus.

    Args:
        paths: files; ``FILE:WEIGHT`` repeats a file's records as often (2: twice) or takes a share
            of them (0.5: half, drawn once and for all).

    Raises:
        UserError: with file, line and column if a file is broken, with the record if its shape is
            wrong.
    """
    records = Records.of_files(paths)
    if records.first_fault is not None:
        raise records.first_fault
    return records


def load_records(path: str | os.PathLike[str]) -> list[Record]:
    """Return all records of a file, in memory. Raises as `open_records`."""
    return list(open_records(path))


class Records(Sequence[Record]):
    """A corpus's records; index them, or slice them into a list."""

    def __init__(self, files: Sequence[RecordFile], weights: Sequence[float]) -> None:
        self.files = files
        self._weights = weights
        self._rows = [_chosen(len(f), w) for f, w in zip(files, weights, strict=True)]
        sizes = [
            len(file) if rows is None else len(rows)
            for file, rows in zip(files, self._rows, strict=True)
        ]
        self._starts = [0, *np.cumsum(sizes).tolist()]
        named: dict[str, Path] = {}
        for file in files:
            other = named.setdefault(file.path.name, file.path)
            if file.has_bytes and other.resolve() != file.path.resolve():
                raise UserError(
                    f"--data_path: {other} and {file.path} have one name, after which the images "
                    "in them are called; rename one of them"
                )

    @classmethod
    def of_files(
        cls, paths: str | os.PathLike[str] | Sequence[str], *, weighted: bool = True
    ) -> Records:
        """Open files whose records may be faulty; raises only for files that cannot be read.

        Without `weighted` each file is there once, whatever its weight.
        """
        named = [str(paths)] if isinstance(paths, (str, os.PathLike)) else paths
        specs = [split_weight(name) for name in named]
        if not specs:
            raise UserError("--data_path: name at least one file of records")
        files = [open_record_file(path) for path, _ in specs]
        for file, (_, weight) in zip(files, specs, strict=True):
            if round(weight * len(file)) == 0:
                raise UserError(
                    f"--data_path {file.path}:{weight:g}: takes none of the file's {len(file)} "
                    "records; raise the weight, or leave the file out"
                )
        return cls(files, [weight if weighted else 1 for _, weight in specs])

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        """Return a record, or a list of them. Raises the `RecordError` of a faulty one."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        item = self.item(index)
        if isinstance(item, RecordError):
            raise item
        return item

    def item(self, index: int) -> Record | RecordError:
        """Return a record, or what is wrong with it."""
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        part = bisect_right(self._starts, index) - 1
        row, rows = index - self._starts[part], self._rows[part]
        return self.files[part].item(row if rows is None else int(rows[row]), index)

    @cached_property
    def words(self) -> NDArray[np.int32]:
        """The words of each record, all turns together, as LLaVA counts them."""
        return self._column(lambda file: file.words)

    @cached_property
    def num_images(self) -> NDArray[np.int32]:
        """The images of each record."""
        return self._column(lambda file: file.num_images)

    def first_images(self) -> Iterator[str | None]:
        """Yield each record's first image, without reading the rest of it."""
        for file, rows in zip(self.files, self._rows, strict=True):
            names = file.first_images()
            if rows is None:
                yield from names
            else:
                held = list(names)
                yield from (held[row] for row in rows)

    def _column(self, of: Callable[[RecordFile], NDArray[Any]]) -> NDArray[Any]:
        parts = zip(self.files, self._rows, strict=True)
        return np.concatenate(
            [of(file) if rows is None else of(file)[rows] for file, rows in parts]
        )

    @property
    def first_fault(self) -> RecordError | None:
        """What is wrong with the first faulty record of the files."""
        for file in self.files:
            for row in file.faults()[:1]:
                fault = file.item(int(row), int(row))
                assert isinstance(fault, RecordError)
                return fault
        return None

    def faults(self) -> list[int]:
        """Return the places of the records that are faulty."""
        found = self._column(lambda file: np.isin(np.arange(len(file)), file.faults()))
        return np.flatnonzero(found).tolist()

    @property
    def sha256(self) -> str:
        """A checksum of what the corpus consists of: of one whole file, that of its bytes."""
        parts = [
            file.sha256 if weight == 1 else f"{file.sha256}:{weight}"
            for file, weight in zip(self.files, self._weights, strict=True)
        ]
        return (
            parts[0] if len(parts) == 1 else hashlib.sha256("\n".join(parts).encode()).hexdigest()
        )

    @property
    def has_bytes(self) -> bool:
        """Whether some files hold their images."""
        return any(file.has_bytes for file in self.files)

    def image_bytes(self, name: str) -> bytes | None:
        """Return the bytes of an image that a file holds, by its name; None for another image."""
        found = re.fullmatch(r"(.+)#(\d+)(?:\.(\d+))?", name)
        for file in self.files if found else ():
            if file.has_bytes and file.path.name == found[1]:  # type: ignore[index]
                return file.image_bytes(int(found[2]), int(found[3] or 0))  # type: ignore[index]
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, ([file.path for file in self.files], self._weights)


def _reopen(paths: Sequence[Path], weights: Sequence[float]) -> Records:
    return Records([open_record_file(path) for path in paths], weights)


def sizes_of(records: Sequence[Record]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the words and the numbers of images of some records."""
    if isinstance(records, Records):
        return records.words, records.num_images
    words = [count_words(record) for record in records]
    return np.array(words, np.int32), np.array([len(r.images) for r in records], np.int32)


def first_images(records: Sequence[Record]) -> Iterator[str | None]:
    """Yield each record's first image."""
    if isinstance(records, Records):
        yield from records.first_images()
    else:
        yield from (record.image for record in records)


def split_weight(spec: str) -> tuple[Path, float]:
    """Split ``FILE:WEIGHT``."""
    name, colon, weight = spec.rpartition(":")
    if not colon or os.path.exists(spec):
        return Path(spec), 1.0
    try:
        value = float(weight)
    except ValueError:
        return Path(spec), 1.0
    if not 0 < value <= 1000:
        raise UserError(f"--data_path {spec}: the weight must be above 0 and at most 1000")
    return Path(name), value


def _chosen(size: int, weight: float) -> NDArray[np.int64] | None:
    """Return the rows that a weight takes of a file, None for all of them once."""
    if weight == 1:
        return None
    whole, share = divmod(weight, 1)
    drawn = np.sort(np.random.default_rng(0).permutation(size)[: round(share * size)])
    return np.concatenate([np.tile(np.arange(size), int(whole)), drawn])
