"""Reading a benchmark's official files, with errors that name the file and the line."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from llava_sea.errors import UserError


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: if it is not there or is not JSON.
    """
    try:
        return json.loads(_text(path))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); fetch the official file again") from error


def read_jsonl(path: Path, keys: Iterable[str]) -> list[tuple[int, dict[str, Any]]]:
    """Read a file of one JSON object a line, as (line number, object); empty lines are passed over.

    Args:
        path: the file.
        keys: what each object must have; "image" and "text" must be texts.

    Raises:
        UserError: if the file is not there, or a line is no such object.
    """
    wanted = tuple(keys)
    rows = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            for key in wanted:
                if key in ("image", "text") and not isinstance(row[key], str):
                    raise TypeError(f"{key} is {row[key]!r}")
                row[key]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}:{number}: not a JSON object with {', '.join(wanted)} ({error!r}); "
                "fetch the official file again"
            ) from error
        rows.append((number, row))
    return rows


def check_ids(answered: Iterable[str], asked: Collection[str], source: Path | str) -> None:
    """Hold that every answer is to a question of the benchmark.

    Raises:
        UserError: if one is not: the answers are then of another file or another split.
    """
    strange = [key for key in answered if key not in asked]
    if strange:
        raise UserError(
            f"{len(strange)} answers are to questions that {source} does not have, the first to "
            f"question_id {strange[0]}; score them with the files and the split they were made from"
        )


def percent(part: float, whole: float) -> float:
    """Return part / whole, 0 to 100; nothing of nothing is 0."""
    return 100.0 * part / whole if whole else 0.0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"{path}: there is no such file; put the official file there") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error}); fetch the official file again") from error
