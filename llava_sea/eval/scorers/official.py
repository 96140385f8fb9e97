"""A benchmark's official files, read with errors that name file and line, and joined by id.

Questions and answers meet by key, never by order. An answer to a question that the files do not
have is an error: it is the sign of another split's file. A question without an answer is marked
wrong and counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import fsum
from pathlib import Path
from typing import Any

from llava_sea import files
from llava_sea.errors import UserError


def read_json(path: Path) -> Any:
    """Read a JSON file of up to 1 GiB."""
    return files.read_json(path, files.LIST_BYTES)


def read_jsonl(path: Path, keys: Sequence[str]) -> list[tuple[int, dict[str, Any]]]:
    """Read a file of one JSON object a line, as (line number, object); empty lines are none.

    Args:
        path: the file.
        keys: those that each object must have; "image" and "text" must be texts.
    """

    def check(row: Any) -> None:
        for key in keys:
            if not isinstance(row[key], str) and key in ("image", "text"):
                raise TypeError(f"{key} is {row[key]!r}")

    what = f"a JSON object with {', '.join(keys)}"
    return files.read_jsonl(path, what, check, "fetch the official file again")


def read_questions(path: Path) -> list[dict[str, Any]]:
    """Read LLaVA's question file, a JSON object a line with at least a "question_id"."""
    questions = [row for _, row in read_jsonl(path, ("question_id",))]
    if not questions:
        raise UserError(f"{path}: no questions; give the question file of the split that was asked")
    refuse_twins((str(question["question_id"]) for question in questions), path)
    return questions


@contextmanager
def reading(path: Path, place: str) -> Iterator[None]:
    """Turn the error over a record that is not as it should be into one that names it."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: {place}: not as the official file has it: {error!r}; fetch the file again"
        ) from error


def check_ids(answered: Iterable[str], asked: Collection[str], source: Path | str) -> None:
    """Raise a `UserError` if an answer is to no question: it is of another file or split."""
    if strange := [key for key in answered if key not in asked]:
        raise UserError(
            f"{source}: of the answered questions, it does not have question_id "
            f"{name_some(strange)}; give the files of the split that was asked"
        )


def refuse_twins(keys: Iterable[str], source: Path) -> None:
    """Raise a `UserError` that names the keys that a file has twice."""
    if twins := [key for key, count in Counter(keys).items() if count > 1]:
        raise UserError(f"{source}: has {name_some(twins)} more than once; keep one of each")


def name_some(names: Sequence[str]) -> str:
    """Return the first three of the names, and how many more there are."""
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more


def percent(part: float, whole: float) -> float:
    """Return part / whole, 0 to 100; nothing of nothing is 0."""
    return 100.0 * part / whole if whole else 0.0


def percents(marks: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Return each name's mean mark (0 to 1) as percent, the names in order."""
    groups: dict[str, list[float]] = defaultdict(list)
    for name, mark in marks:
        groups[name].append(mark)
    return {name: percent(fsum(groups[name]), len(groups[name])) for name in sorted(groups)}
