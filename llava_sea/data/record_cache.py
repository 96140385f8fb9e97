"""A data file's records in an Arrow table: read and checked once, then mapped into memory.

The cache belongs to the file's bytes: their checksum is looked at again when size or time differ. A
small file (`SMALL_BYTES`) is kept in memory and leaves no cache.
"""

from __future__ import annotations

import hashlib
import os
import re
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llava_sea.data import problems
from llava_sea.data.cached import SMALL_BYTES, cache_folder, cached
from llava_sea.data.problems import RecordError
from llava_sea.data.read_records import read_records
from llava_sea.data.row_shapes import Record, Turn
from llava_sea.errors import UserError
from llava_sea.files import open_file, sha256_file
from llava_sea.progress import Progress

FORMAT = "llava_sea records 1"
_BATCH_ROWS, _BATCH_BYTES = 4096, 32 * 2**20
_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "roles": pa.string(),
        "texts": pa.list_(pa.string()),
        "images": pa.list_(pa.string()),
        "ignored": pa.list_(pa.string()),
        "fault": pa.list_(pa.string()),
        "words": pa.int32(),
        "bytes": pa.list_(pa.binary()),
    }
)
"""`roles` has a letter a turn, `words` the words of all turns; `fault` is a `RecordError`'s."""

_KINDS = {kind.name: kind for kind in (problems.BROKEN_JSON, problems.BAD_SHAPE)}


def count_words(record: Record) -> int:
    """Count a record's words as LLaVA does for its lengths by modality."""
    return sum(len(turn.text.split()) for turn in record.turns)


class RecordFile:
    """A data file's records in an Arrow table, in memory or mapped."""

    def __init__(self, path: Path, source: pa.NativeFile | pa.Buffer) -> None:
        self.path = path
        reader = pa.ipc.open_file(source)
        metadata = reader.schema.metadata or {}
        about = {key.decode(): value.decode() for key, value in metadata.items()}
        if about.get("format") != FORMAT or not reader.schema.equals(_SCHEMA):
            raise pa.ArrowInvalid(f"format {about.get('format')!r}")
        self.sha256 = about["sha256"]
        self._batches = [reader.get_batch(n) for n in range(reader.num_record_batches)]
        for batch in self._batches:
            batch.validate()
        self._starts = [0, *np.cumsum([batch.num_rows for batch in self._batches]).tolist()]
        self.has_bytes = any(_known(batch, "bytes") for batch in self._batches)

    def __len__(self) -> int:
        return self._starts[-1]

    def faults(self) -> NDArray[np.int64]:
        """Return the rows that are faulty."""
        found = [
            start + np.flatnonzero(batch.column("fault").is_valid().to_numpy(False))
            for batch, start in zip(self._batches, self._starts, strict=False)
            if _known(batch, "fault")
        ]
        return np.concatenate([np.empty(0, np.int64), *found])

    def _at(self, row: int) -> tuple[pa.RecordBatch, int]:
        number = bisect_right(self._starts, row) - 1
        return self._batches[number], row - self._starts[number]

    def item(self, row: int, index: int) -> Record | RecordError:
        """Return a row as the corpus's record `index`."""
        batch, at = self._at(row)
        id_, roles, texts, images, ignored, fault = (batch.column(n)[at].as_py() for n in range(6))
        if fault:
            return RecordError(_KINDS[fault[0]], fault[1], row, id_, str(self.path))
        turns = tuple(
            Turn("human" if role == "h" else "gpt", text)
            for role, text in zip(roles, texts, strict=True)
        )
        first, more = (images[0], tuple(images[1:])) if images else (None, ())
        place = None if row == index else row
        return Record(index, id_, first, turns, more, tuple(ignored), str(self.path), place)

    def image_bytes(self, row: int, number: int) -> bytes | None:
        """Return the bytes of a row's image."""
        if not 0 <= row < len(self):
            return None
        batch, at = self._at(row)
        data = batch.column("bytes")[at]
        return data[number].as_py() if number < len(data) else None

    def first_images(self) -> Iterator[str | None]:
        """Yield the first image of each row."""
        for batch in self._batches:
            yield from (names[0] if names else None for names in batch.column("images").to_pylist())

    @property
    def words(self) -> NDArray[np.int32]:
        """Words of each row."""
        return np.concatenate([batch.column("words").to_numpy() for batch in self._batches])

    @property
    def num_images(self) -> NDArray[np.int32]:
        """Images of each row."""
        lengths = [batch.column("images").value_lengths().to_numpy() for batch in self._batches]
        return np.concatenate(lengths)


def _known(batch: pa.RecordBatch, column: str) -> bool:
    return batch.column(column).null_count < batch.num_rows


def open_record_file(path: Path) -> RecordFile:
    """Open a data file's records: made now, or found in the cache."""
    open_file(path).close()  # a regular file, and there
    found = os.stat(path)
    if found.st_size <= SMALL_BYTES:
        sink = pa.BufferOutputStream()
        _write(path, sink)
        return RecordFile(path, sink.getvalue())
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    stem = re.sub(r"[^\w.-]", "_", path.stem)[:40]
    return cached(
        cache_folder() / "records" / f"{stem}-{name}.arrow",
        [[str(path), found.st_size, found.st_mtime_ns]],
        lambda cache: _mapped(path, cache),
        lambda out: _write(path, out),
        still_fits=lambda file: file.sha256 == sha256_file(path),
    )


def _mapped(path: Path, cache: Path) -> RecordFile | None:
    """Map a cache; None if there is none, or none that this version reads."""
    try:
        return RecordFile(path, pa.memory_map(str(cache)))
    except (OSError, KeyError, ValueError):
        return None


def _write(path: Path, sink: Any) -> None:
    """Read a data file and write its table.

    Raises:
        UserError: if the file cannot be read, or changed meanwhile.
    """
    before = os.stat(path)
    about = {"format": FORMAT, "sha256": sha256_file(path)}
    columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
    held = 0
    show = Progress("records", shown=before.st_size > SMALL_BYTES)
    with pa.ipc.new_file(sink, _SCHEMA.with_metadata(about)) as writer, show:
        for item, data in read_records(path):
            values, size = _row(item, data)
            for name, value in zip(_SCHEMA.names, values, strict=True):
                columns[name].append(value)
            held += size
            if held >= _BATCH_BYTES or len(columns["id"]) == _BATCH_ROWS:
                held = _flush(writer, columns, show)
        _flush(writer, columns, show)
    after = os.stat(path)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise UserError(f"{path}: changed while it was read; start again when it is whole")


def _row(item: Record | RecordError, data: list[bytes]) -> tuple[tuple[Any, ...], int]:
    """Return a record's values, in the schema's order, and about how many bytes they have."""
    if isinstance(item, RecordError):
        fault = [item.kind.name, item.what]
        return (item.id, "", [], [], [], fault, 0, None), len(item.what)
    texts = [turn.text for turn in item.turns]
    roles = "".join(turn.role[0] for turn in item.turns)
    words = count_words(item)
    row = (item.id, roles, texts, item.images, item.ignored, None, words, data or None)
    return row, sum(map(len, texts)) + sum(map(len, data)) + 64


def _flush(writer: Any, columns: dict[str, list[Any]], show: Progress) -> int:
    """Write the rows that are held, and hold none."""
    if columns["id"]:
        writer.write_batch(pa.RecordBatch.from_pydict(columns, schema=_SCHEMA))
        show.update(len(columns["id"]))
    for values in columns.values():
        values.clear()
    return 0
