"""The captions of a corpus, one at a time, from the files that hold them.

- `*.json`, `*.jsonl`, `*.parquet`: records in the forms of `llava_sea.data.row_shapes`, whose
  answers are the captions; objects with `caption` or `text`; or strings.
- `*.txt`: one caption a line.
Limits: UTF-8. A record or line without a caption is an error that names it, never skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llava_sea.data.read_records import BrokenRow, read_rows, text_lines
from llava_sea.data.row_shapes import BadShape, make_record
from llava_sea.errors import UserError

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
    """Yield the captions of one file; a `UserError` names the record or the line that has none."""
    if path.suffix == ".txt":
        for number, text in text_lines(path):
            if not text.strip():
                raise UserError(f"{path}, line {number}: is blank; every line holds one caption")
            yield text
        return
    for index, row in enumerate(read_rows(path)):
        where = f"{path}: record {index}"
        if isinstance(row, dict) and "id" in row:
            where += f" (id {row['id']!r})"
        try:
            captions = _captions_of(row)
        except (BrokenRow, BadShape) as error:
            raise UserError(f"{where}: {error}") from None
        for caption in captions or [None]:
            if not isinstance(caption, str) or not caption.strip():
                raise UserError(
                    f"{where}: holds no caption, or an empty one ({caption!r}); expected a record "
                    "with an answer, an object with 'caption' or 'text', or a string"
                )
            yield caption


def _captions_of(row: Any) -> list[Any]:
    if isinstance(row, BrokenRow):
        raise row
    if not isinstance(row, dict):
        return [row]
    if all(row.get(form) is None for form in ("conversations", "messages", "texts")):
        return [row[key] for key in ("caption", "text") if key in row][:1]
    record, _ = make_record(row, 0, "")
    return [turn.text for turn in record.turns if turn.role == "gpt"]
