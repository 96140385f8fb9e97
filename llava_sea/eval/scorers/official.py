"""Reading a benchmark's official files, with errors that name the file and the line."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from llava_sea.errors import UserError
from llava_sea.files import read_text


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: if it can't be read or is not JSON.
    """
    text = _text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); fetch the official file again") from error


def read_jsonl(path: Path, keys: Iterable[str]) -> list[tuple[int, dict[str, Any]]]:
    """Read a file of one JSON object a line, as (line number, object); empty lines are passed over.

    Args:
        path: the file.
        keys: what each object must have; "image" and "text" must be texts.

    Raises:
        UserError: if the file can't be read, or a line is no such object.
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
        except (ValueError, KeyError, TypeError, RecursionError) as error:
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
    if strange := [key for key in answered if key not in asked]:
        raise UserError(
            f"{source}: of the answered questions, it does not have question_id "
            f"{name_some(strange)}; give the files of the split that was asked"
        )


def name_some(names: Sequence[str]) -> str:
    """Return the first three of the names, and how many more there are."""
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more


def percent(part: float, whole: float) -> float:
    """Return part / whole, 0 to 100; nothing of nothing is 0."""
    return 100.0 * part / whole if whole else 0.0


def _text(path: Path) -> str:
    if not path.exists():
        raise UserError(f"{path}: there is no such file; put the official file there")
    return read_text(path)
