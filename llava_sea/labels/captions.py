"""The captions of a corpus, one at a time, from the files that hold them.

- `*.json`: LLaVA's layout, a list of records; the captions are the `gpt` turns of `conversations`.
- `*.jsonl`: one a line: such a record, a JSON string, or an object with `caption` or `text`.
- `*.txt`: one caption a line.
Limits: UTF-8. A record or line without a caption is an error that names it, never skipped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llava_sea.errors import UserError
from llava_sea.labels.json_stream import TextBlocks, iter_json_array, iter_lines

SUFFIXES = (".json", ".jsonl", ".txt")


class CaptionBatch(NamedTuple):
    """Some captions in corpus order, and how many bytes of all files were read to get so far."""

    captions: list[str]
    bytes_read: int


def check_corpus(paths: Sequence[Path]) -> int:
    """The size of the corpus in bytes, after a look at every file's name and presence.

    Raises:
        UserError: no file is given, one is missing, or its suffix is unknown.
    """
    if not paths:
        raise UserError("--data_path: give at least one file of captions")
    total = 0
    for path in paths:
        if path.suffix not in SUFFIXES:
            raise UserError(f"--data_path {path}: the name must end in {', '.join(SUFFIXES)}")
        if not path.is_file():
            raise UserError(f"--data_path {path}: there is no such file")
        total += path.stat().st_size
    return total


def iter_caption_batches(
    paths: Sequence[Path], max_captions: int, max_chars: int
) -> Iterator[CaptionBatch]:
    """All captions in order, in batches that end at `max_captions` or once past `max_chars`.

    Where the batches end depends on the corpus alone, so that whoever counts them gets the same
    parts however many workers there are.

    Raises:
        UserError: as `iter_captions`.
    """
    batch: list[str] = []
    chars = done = bytes_read = 0
    for path in paths:
        blocks = TextBlocks(path)
        try:
            for caption in iter_captions(blocks):
                batch.append(caption)
                chars += len(caption)
                if len(batch) >= max_captions or chars >= max_chars:
                    yield CaptionBatch(batch, done + blocks.bytes_read)
                    batch, chars = [], 0
        finally:
            blocks.close()
        done += blocks.bytes_read
        bytes_read = done
    if batch:
        yield CaptionBatch(batch, bytes_read)


def iter_captions(blocks: TextBlocks) -> Iterator[str]:
    """The captions of one file, by its suffix.

    Raises:
        UserError: broken JSON, a record of another shape, or a missing or empty caption; with the
            file and the line, and the record's index and id where it has them.
    """
    path = blocks.path
    if path.suffix == ".json":
        for index, line, value in iter_json_array(blocks):
            yield from _record_captions(value, f"{path}, line {line}, record {index}")
        return
    for number, text in iter_lines(blocks):
        where = f"{path}, line {number}"
        if not text.strip():
            raise UserError(f"{where}: is blank; every line holds one caption")
        if path.suffix == ".txt":
            yield text
        else:
            yield from _line_captions(text, where)


def _line_captions(text: str, where: str) -> Iterator[str]:
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{where}: broken JSON: {error}") from error
    if isinstance(value, str):
        yield _checked(value, where, "the caption")
    elif isinstance(value, dict) and "conversations" in value:
        yield from _record_captions(value, where)
    elif isinstance(value, dict) and ("caption" in value or "text" in value):
        key = "caption" if "caption" in value else "text"
        yield _checked(value[key], where, f"'{key}'")
    else:
        raise UserError(
            f"{where}: holds no caption; expected a string, an object with 'caption' or 'text', "
            "or a record with 'conversations'"
        )


def _record_captions(record: Any, where: str) -> Iterator[str]:
    if not isinstance(record, dict):
        raise UserError(f"{where}: is a {type(record).__name__}, not an object")
    if "id" in record:
        where += f" (id {record['id']!r})"
    turns = record.get("conversations")
    if not isinstance(turns, list):
        raise UserError(f"{where}: has no list 'conversations'")
    found = False
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict) or "from" not in turn:
            raise UserError(f"{where}: turn {number} is not an object with 'from' and 'value'")
        if turn["from"] == "gpt":
            found = True
            yield _checked(turn.get("value"), where, f"'value' of gpt turn {number}")
    if not found:
        raise UserError(f"{where}: has no caption: none of its turns is from 'gpt'")


def _checked(caption: Any, where: str, what: str) -> str:
    if not isinstance(caption, str):
        raise UserError(f"{where}: {what} is missing or not a string: {caption!r}")
    if not caption.strip():
        raise UserError(f"{where}: {what} is an empty caption; mend or remove the record")
    return caption
