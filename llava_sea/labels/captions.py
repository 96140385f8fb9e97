"""The captions of a corpus, one at a time, from the files that hold them.

- `*.json`: a list of records; the captions are the answers: LLaVA's `gpt` turns, or those of the
  other forms that `llava_sea.data.row_shapes` names.
- `*.parquet`: rows of such records, or with `caption` or `text`.
- `*.jsonl`: one a line: such a record, a JSON string, or an object with `caption` or `text`.
- `*.txt`: one caption a line.
Limits: UTF-8. A record or line without a caption is an error that names it, never skipped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llava_sea.data.read_records import BrokenRow, read_rows
from llava_sea.data.row_shapes import BadShape, make_record
from llava_sea.errors import UserError
from llava_sea.files import read_lines as file_lines

SUFFIXES = (".json", ".jsonl", ".parquet", ".txt")


def check_corpus(names: Sequence[str]) -> list[Path]:
    """Return the files; a UserError if there is none, one is missing, or its suffix is unknown."""
    paths = [Path(name) for name in names]
    if not paths:
        raise UserError("--data_path: give at least one file of captions")
    for path in paths:
        if path.suffix not in SUFFIXES:
            raise UserError(f"--data_path {path}: the name must end in {', '.join(SUFFIXES)}")
        if not path.is_file():
            raise UserError(f"--data_path {path}: there is no such file")
    return paths


def read_captions(path: Path) -> Iterator[str]:
    """Yield the captions of one file.

    Raises:
        UserError: broken JSON, a record of another shape, or a missing or empty caption; with the
            file and the line or the record.
    """
    if path.suffix in (".json", ".parquet"):
        for index, row in enumerate(read_rows(path)):
            if isinstance(row, BrokenRow):
                raise UserError(f"{path}: record {index}: {row}")
            yield from _captions_of(row, f"{path}: record {index}")
        return
    for number, text in read_lines(path):
        where = f"{path}, line {number}"
        if not text.strip():
            raise UserError(f"{where}: is blank; every line holds one caption")
        if path.suffix == ".txt":
            yield text
            continue
        try:
            row = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"{where}: broken JSON: {error}") from None
        yield from _captions_of(row, where)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Yield the lines of a text file as (line number from 1, text without the line end).

    Lines end with \n or \r\n only: the other characters at which `str.splitlines` cuts may stand
    inside a caption.
    """
    number = 0
    try:
        for number, line in enumerate(file_lines(path), 1):
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            yield number, text.removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError(
            f"{path}, line {number}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8"
        ) from None


def _captions_of(row: Any, where: str) -> Iterator[str]:
    found: list[Any] = []
    if isinstance(row, dict) and "id" in row:
        where += f" (id {row['id']!r})"
    if isinstance(row, str):
        found = [row]
    elif isinstance(row, dict) and isinstance(row.get("conversations"), list):
        turns = [turn for turn in row["conversations"] if isinstance(turn, dict)]
        found = [turn.get("value") for turn in turns if turn.get("from") == "gpt"]
    elif isinstance(row, dict) and (row.get("messages") or row.get("texts")):
        try:
            record, _ = make_record(row, 0, "")
        except BadShape as error:
            raise UserError(f"{where}: {error}") from None
        found = [turn.text for turn in record.turns if turn.role == "gpt"]
    elif isinstance(row, dict):
        found = [row[key] for key in ("caption", "text") if key in row][:1]
    if not found:
        raise UserError(
            f"{where}: holds no caption; expected a record with 'conversations' and a turn from "
            "'gpt', an object with 'caption' or 'text', or a string"
        )
    for caption in found:
        if not isinstance(caption, str) or not caption.strip():
            raise UserError(
                f"{where}: its caption is empty or no text: {caption!r}; fix or remove the record"
            )
        yield caption
