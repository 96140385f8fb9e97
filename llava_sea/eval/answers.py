"""Answer files, as LLaVA's: a JSON object a line, ``{"question_id", "prompt", "text", ...}``.

Answers are joined with questions by id, and never by the order of lines. A file that a run left
unfinished may end in the middle of a line: that line is not an answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_sea.errors import UserError
from llava_sea.files import read_file


@dataclass(frozen=True)
class Answer:
    """A line of an answer file.

    Attributes:
        question_id: of the question, as the benchmark has it (a number or a text).
        prompt: what was asked, without the picture's placeholder.
        text: what was answered.
    """

    question_id: int | str
    prompt: str
    text: str


def read_answers(path: Path) -> list[Answer]:
    """Read an answer file.

    Raises:
        UserError: as `read_rows`.
    """
    return [
        Answer(row["question_id"], str(row.get("prompt") or ""), row["text"])
        for _, row in read_rows(path)
    ]


def read_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Return the rows of an answer file with their line numbers; a cut last line is none.

    Raises:
        UserError: if it is no file, or another line is no answer.
    """
    lines = read_file(path).split(b"\n")
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row["text"], str) or not isinstance(row["question_id"], (int, str)):
                raise TypeError("question_id or text of another type")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if number == len(lines):
                break
            raise UserError(
                f"{path}:{number}: not an answer ({error!r}). Remove the line, and the question "
                "is asked again"
            ) from error
        rows.append((number, row))
    return rows


def by_id(answers: Iterable[Answer]) -> dict[str, str]:
    """Return the texts by question id (as text: files write 7 and "7" for the same question).

    Raises:
        UserError: if an id has two different answers.
    """
    texts: dict[str, str] = {}
    for answer in answers:
        key = str(answer.question_id)
        if texts.setdefault(key, answer.text) != answer.text:
            raise UserError(
                f"question_id {key} has two answers, {texts[key]!r} and {answer.text!r}; keep one"
            )
    return texts
