"""Records: LLaVA's JSON list (or one JSON object a line) into checked, typed records.

Everything that can be wrong with the text is found here, before a run, and named by record: see
`llava_sea.data.images` for the images and `llava_sea.conversation` for what a template needs.
Limits: the file is held in memory.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from llava_sea.data.problems import BAD_SHAPE, BROKEN_JSON, Kind, RecordError, record_name
from llava_sea.errors import UserError
from llava_sea.files import read_text

ROLES = ("human", "gpt")
_NOT_READ = ("images", "video", "videos")
"""Other packages' keys for what the turns are about; left unread, their records lose it."""

_IGNORED = ("system", "weight", "loss")
"""Other packages' keys for how a record or a turn is trained on; LLaVA ignores them as well."""


class Turn(NamedTuple):
    """One speaker's text; `role` is "human" or "gpt"."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Record:
    """One conversation; images are paths below the image folder, `image` the first or None."""

    index: int
    id: str
    image: str | None
    turns: tuple[Turn, ...]
    more_images: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    """Keys in it that mean something elsewhere and nothing here."""
    file: str = field(default="", compare=False)
    """The data file that it comes from, for messages."""

    @property
    def images(self) -> tuple[str, ...]:
        """All images, in the order of their places."""
        return () if self.image is None else (self.image, *self.more_images)

    @property
    def name(self) -> str:
        """The record's name in messages."""
        return record_name(self.index, self.id)

    def error(self, kind: Kind, what: str) -> RecordError:
        """Return the error that says what is wrong with this record."""
        return RecordError(kind, what, self.index, self.id, self.file)


def load_records(path: str | os.PathLike[str]) -> list[Record]:
    """Read a data file: a JSON list of LLaVA's records, or ``.jsonl`` with one a line.

    Each is ``{"id", "image", "conversations": [{"from", "value"}, ...]}``. "id" may be a number or
    missing (the index is taken), "image" missing or null (text only), or a list of several.

    Raises:
        UserError: with file, line and column if it is no JSON, with the record if its shape is
            wrong.
    """
    records = []
    for item in parse_records(path):
        if isinstance(item, RecordError):
            raise item
        records.append(item)
    return records


def parse_records(path: str | os.PathLike[str]) -> Iterator[Record | RecordError]:
    """Yield a file's records, and an error in the place of a bad one.

    After a break in a JSON list nothing more can be told apart: it is the last that comes.

    Raises:
        UserError: if the file cannot be read, is not UTF-8, or holds no list of records.
    """
    text = read_text(path, None)
    if not text.strip():
        raise UserError(f"{path}: the file is empty, it holds no records")
    rows: Iterator[Any] = _lines(text, path) if _is_json_lines(path) else _list(text, path)
    index, file = -1, str(path)
    for index, row in enumerate(rows):
        if isinstance(row, _BrokenJson):
            yield RecordError(BROKEN_JSON, str(row), index, None, file)
            continue
        try:
            yield _record(row, index, file)
        except _BadShape as error:
            record_id = row.get("id", index) if isinstance(row, dict) else None
            known = isinstance(record_id, (str, int)) and not isinstance(record_id, bool)
            yield RecordError(BAD_SHAPE, str(error), index, str(record_id) if known else None, file)
    if index < 0:
        raise UserError(f"{path}: the file holds no records")


class _BrokenJson(Exception):
    """A place that is no JSON."""


class _BadShape(Exception):
    """A record that is not of LLaVA's form."""


def _is_json_lines(path: str | os.PathLike[str]) -> bool:
    return Path(path).suffix.lower() in (".jsonl", ".ndjson")


def _lines(text: str, path: str | os.PathLike[str]) -> Iterator[Any]:
    """Yield each line's value, or the error it makes."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield _parse(line, path, number)
            except _BrokenJson as error:
                yield error


def _list(text: str, path: str | os.PathLike[str]) -> Iterator[Any]:
    """Yield a JSON list's values; where it breaks, those before the break and the error."""
    try:
        rows = _parse(text, path, 1)
    except _BrokenJson as error:
        decoder = json.JSONDecoder()
        before = re.compile(r"\s*\[\s*").match(text)
        if before is None:
            raise UserError(f"{path}: {error}") from None  # no list at all
        while before is not None:
            try:
                row, end = decoder.raw_decode(text, before.end())
            except (ValueError, RecursionError):
                break
            yield row
            before = re.compile(r"\s*,\s*").match(text, end)
        yield error
        return
    if not isinstance(rows, list):
        raise UserError(
            f"{path}: the file holds one {_json_type(rows)}, not a list of records; write "
            "[{...}, {...}], or name it .jsonl with one record a line"
        )
    yield from rows


def _parse(text: str, path: str | os.PathLike[str], line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {line + error.lineno - 1}, column {error.colno}"
        if error.msg == "Extra data" and text.lstrip().startswith("{") and not _is_json_lines(path):
            raise UserError(
                f"{path}: not one JSON list, but an object and more from {place} on; if it holds "
                "one record a line, name it .jsonl"
            ) from None
        raise _BrokenJson(f"broken JSON at {place}: {error.msg}") from None
    except ValueError as error:  # a whole number of more digits than Python reads
        raise _BrokenJson(f"broken JSON from line {line} on: {error}") from None
    except RecursionError:
        raise _BrokenJson(f"the JSON from line {line} on is nested too deep") from None


def _record(row: Any, index: int, file: str) -> Record:
    if not isinstance(row, dict):
        raise _BadShape(f"is a {_json_type(row)}, not an object")
    record_id = row.get("id", index)
    if isinstance(record_id, bool) or not isinstance(record_id, (str, int)):
        raise _BadShape('"id" must be a string or a whole number')
    turns = row.get("conversations")
    if not isinstance(turns, list) or not turns:
        given = {"None": "missing", "[]": "empty"}.get(str(turns), f"of type {_json_type(turns)}")
        raise _BadShape(
            '"conversations" must be a list of turns '
            f'{{"from": "human" or "gpt", "value": "..."}}, it is {given}'
        )
    for key in _NOT_READ:
        if row.get(key):
            raise _BadShape(
                f'has "{key}", which is not read: an image is named by "image", a path '
                "below the image folder or a list of them. Rename the key, or remove the record if "
                "it is about a video"
            )
    images = _images(row.get("image"))
    return Record(
        index,
        str(record_id),
        images[0] if images else None,
        tuple(_turn(turn, number) for number, turn in enumerate(turns)),
        images[1:],
        _ignored(row, turns),
        file,
    )


def _ignored(row: dict[str, Any], turns: list[Any]) -> tuple[str, ...]:
    """Return the keys of a record and its turns that are not read, but for those that say nothing.

    Nothing is said by an empty system prompt, a weight of 1, and a loss that is wanted.
    """
    return tuple(
        key for key in _IGNORED if any(one.get(key) not in (None, "", 1) for one in (row, *turns))
    )


def _images(value: Any) -> tuple[str, ...]:
    """Return the images of an "image": a path, a list of them, or nothing."""
    if value is None:
        return ()
    listed = value if isinstance(value, list) and value else [value]
    for path in listed:
        if not isinstance(path, str) or not path:
            raise _BadShape(
                f'"image" must be a path below the image folder or a list of them, it is {path!r}'
            )
    return tuple(listed)


def _turn(turn: Any, number: int) -> Turn:
    role, text = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
    if role not in ROLES:
        raise _BadShape(
            f'turn {number} is from {role!r}; LLaVA\'s names are "human" and "gpt" '
            '(for "user" and "assistant"; a "system" turn is not supported)'
        )
    if not isinstance(text, str):
        raise _BadShape(f'turn {number} needs its text in "value", it is {text!r}')
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise _BadShape(
                f"turn {number} holds half a character (character {error.start} is an "
                "unpaired surrogate, often a cut-off emoji); fix the text"
            ) from None
    return Turn(role, text)


def _json_type(value: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "true/false", type(None): "null"}
    return names.get(type(value), "number")
