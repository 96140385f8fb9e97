"""Data files into records, one after the other: LLaVA's JSON list, JSON lines, parquet.

Everything that can be wrong with the text is found here, before a run, and named by record; how a
record may look is `llava_sea.data.row_shapes`' part. Files are read in pieces, so memory is needed
for one piece and not for the file; parquet needs that of a row group.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from llava_sea.data.problems import BAD_SHAPE, BROKEN_JSON, RecordError
from llava_sea.data.row_shapes import BadShape, Record, json_type, make_record
from llava_sea.errors import UserError
from llava_sea.files import LINE_BYTES, open_file, read_lines

_PIECE = 4 * 2**20
_SPACE = re.compile(r"[ \t\n\r]*")

_ROWS = 64  # of a parquet file at a time: each may hold images


class ReadRecord(NamedTuple):
    """A record, or what is wrong with it, and the bytes of the images that it brings."""

    record: Record | RecordError
    image_bytes: list[bytes]


def parse_records(path: str | os.PathLike[str]) -> Iterator[Record | RecordError]:
    """Yield a file's records, and an error in the place of a bad one. Raises as `read_records`."""
    for item, _ in read_records(path):
        yield item


def read_records(path: str | os.PathLike[str]) -> Iterator[ReadRecord]:
    """Yield a file's records with their images' bytes, where the file holds them (parquet).

    After a break in a JSON list or a parquet file nothing more can be told apart: it is the last
    that comes.

    Raises:
        UserError: if the file cannot be read, is not UTF-8, or holds no list of records.
    """
    index, file = -1, str(path)
    for index, row in enumerate(read_rows(path)):
        if isinstance(row, BrokenRow):
            yield ReadRecord(RecordError(BROKEN_JSON, str(row), index, None, file), [])
            continue
        try:
            yield ReadRecord(*make_record(row, index, file))
        except BadShape as error:
            record_id = row.get("id", index) if isinstance(row, dict) else None
            known = isinstance(record_id, (str, int)) and not isinstance(record_id, bool)
            name = str(record_id).encode(errors="replace").decode() if known else None
            yield ReadRecord(RecordError(BAD_SHAPE, str(error), index, name, file), [])
    if index < 0:
        raise UserError(f"{path}: the file holds no records")


def read_rows(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Yield a file's values, and a `BrokenRow` for one that cannot be read. Raises as above."""
    if Path(path).suffix.lower() == ".parquet":
        return _parquet_rows(path)
    return _lines(path) if _is_json_lines(path) else _list(path)


class BrokenRow(Exception):
    """A place that cannot be read."""


def _is_json_lines(path: str | os.PathLike[str]) -> bool:
    return Path(path).suffix.lower() in (".jsonl", ".ndjson")


def text_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    r"""Yield a file's lines as (line number from 1, text without the line end).

    Lines end with \n or \r\n only: the other characters at which `str.splitlines` cuts may stand
    inside a caption.
    """
    start = 0
    for number, data in enumerate(read_lines(path), 1):
        try:
            text = data.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise _not_utf8(path, start + error.start, number) from None
        start += len(data)
        yield number, text.removesuffix("\n").removesuffix("\r")


def _not_utf8(path: str | os.PathLike[str], byte: int, line: int) -> UserError:
    return UserError(f"{path}: not UTF-8 text (byte {byte}, line {line}); save it as UTF-8")


def _lines(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Yield each line's value, or the error it makes."""
    blank = True
    for number, line in text_lines(path):
        if not line.strip():
            continue
        blank = False
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            place = f"line {number + error.lineno - 1}, column {error.colno}"
            yield BrokenRow(f"broken JSON at {place}: {error.msg}")
        except (ValueError, RecursionError) as error:
            yield BrokenRow(_too_much(error, number))
    if blank:
        raise _empty(path)


def _empty(path: str | os.PathLike[str]) -> UserError:
    return UserError(f"{path}: the file is empty, it holds no records")


def _too_much(error: Exception, line: int) -> str:
    if isinstance(error, RecursionError):
        return f"the JSON from line {line} on is nested too deep"
    return f"broken JSON from line {line} on: {error}"  # a number of more digits than Python reads


class _Text:
    """A file's text from a place on: `text`, which grows and whose front is let go."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        self.text = ""
        self._file = open_file(path)
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._bytes, self._lines, self._column = 0, 0, 0  # before `text`, and in its first line

    def __enter__(self) -> _Text:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def more(self, start: int) -> bool:
        """Let go of the text before `start` and read on; say whether there was anything."""
        gone = self.text[:start]
        newlines = gone.count("\n")
        self._lines += newlines
        self._column = start - gone.rfind("\n") - 1 if newlines else self._column + start
        # twice as much each time: a long value is not begun anew for every piece
        data = self._file.read(max(_PIECE, len(self.text) - start))
        try:
            self.text = self.text[start:] + self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            line = self._lines + self.text.count("\n", start)
            line += error.object.count(b"\n", 0, error.start) + 1
            kept = len(error.object) - len(data)  # of the piece before
            raise _not_utf8(self.path, self._bytes + error.start - kept, line) from None
        self._bytes += len(data)
        return bool(data)

    def line(self, position: int) -> int:
        """Return the number of a place's line."""
        return self._lines + self.text.count("\n", 0, position) + 1

    def place(self, position: int) -> str:
        """Return a place in the words of messages."""
        before = self.text.rfind("\n", 0, position)
        column = position - before if before >= 0 else self._column + position + 1
        return f"line {self.line(position)}, column {column}"

    def skip(self, position: int) -> int:
        """Return the place of the next character that is no space; the text's end if none is."""
        while True:
            found = _SPACE.match(self.text, position)
            assert found is not None
            if found.end() < len(self.text) or not self.more(found.end()):
                return min(found.end(), len(self.text))
            position = 0

    def value(self, position: int) -> tuple[Any, int]:
        """Decode the value at a place; returns it and the place behind it."""
        decoder = json.JSONDecoder()
        while True:
            try:
                value, end = decoder.raw_decode(self.text, position)
                if end + 2 < len(self.text):
                    return value, end
                if not self.more(position):
                    return value, end - position
                position = 0  # a number may go on in the next piece, behind "e+"
            except json.JSONDecodeError as error:
                open_string = error.msg.startswith("Unterminated string")
                cut = error.pos > len(self.text) - 16 or open_string
                if cut and len(self.text) - position > LINE_BYTES:
                    where = f"one value of over {LINE_BYTES // 2**20} MB begins"
                    raise BrokenRow(f"{where} at {self.place(position)}") from None
                if not cut or not self.more(position):
                    offset = error.pos if not cut else error.pos - position
                    raise BrokenRow(f"broken JSON at {self.place(offset)}: {error.msg}") from None
                position = 0
            except (ValueError, RecursionError) as error:
                raise BrokenRow(_too_much(error, self.line(position))) from None


def _list(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Yield a JSON list's values; where it breaks, those before the break and the error."""
    with _Text(path) as text:
        position = text.skip(0)
        if position == len(text.text):
            raise _empty(path)
        if text.text[position] != "[":
            _refuse_other(text, position)
        first = True
        try:
            while True:
                position = text.skip(position + 1)  # behind the bracket or a comma
                if first and text.text[position : position + 1] == "]":
                    break
                value, position = text.value(position)
                first = False
                yield value
                position = text.skip(position)
                mark = text.text[position : position + 1]
                if mark == "]":
                    break
                if mark != ",":
                    where = text.place(position)
                    raise BrokenRow(f"broken JSON at {where}: Expecting ',' delimiter")
            position = text.skip(position + 1)
            if position < len(text.text):
                raise BrokenRow(f"broken JSON at {text.place(position)}: Extra data")
        except BrokenRow as error:
            yield error


def _refuse_other(text: _Text, position: int) -> None:
    """Say why a file that does not begin with a bracket is no list."""
    is_object = text.text[position] == "{"
    try:
        value, end = text.value(position)
    except BrokenRow as error:
        raise UserError(f"{text.path}: {error}") from None
    end = text.skip(end)
    if end == len(text.text):
        raise UserError(
            f"{text.path}: the file holds one {json_type(value)}, not a list of records; write "
            "[{...}, {...}], or name it .jsonl with one record a line"
        )
    if is_object:
        raise UserError(
            f"{text.path}: not one JSON list, but an object and more from {text.place(end)} on; if "
            "it holds one record a line, name it .jsonl"
        )
    raise UserError(f"{text.path}: broken JSON at {text.place(end)}: Extra data")


def _parquet_rows(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Yield a parquet file's rows; where it breaks, those before the break and the error."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    open_file(path).close()  # a regular file, and there
    try:
        with ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                try:
                    for batch in file.iter_batches(_ROWS, row_groups=[number]):
                        yield from batch.to_pylist()
                # texts that are not UTF-8, times beyond the calendar: ValueError, OverflowError
                except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
                    yield BrokenRow(f"row group {number} of the parquet file is damaged: {error}")
                    return
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"{path}: no parquet file, or a torn one ({error}); copy or download it again"
        ) from None
