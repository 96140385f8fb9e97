"""Question files in: LLaVA's jsonl, ScienceQA's list of conversations, MMBench's table.

Which of them a file is, is told by its first bytes. Each becomes a list of `Question`s in the
file's order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llava_sea.constants import IMAGE_TOKEN
from llava_sea.errors import UserError
from llava_sea.eval.question import (
    Question,
    check_id,
    check_image,
    check_text,
    without_placeholder,
)
from llava_sea.eval.question_table import read_table
from llava_sea.files import read_text

__all__ = ["SINGLE_PRED_PROMPT", "Question", "distinct", "read_questions"]

SINGLE_PRED_PROMPT = {
    "en": "\nAnswer with the option's letter from the given choices directly.",
    "cn": "\n请直接回答选项字母。",
}
"""What LLaVA's ``--single-pred-prompt`` adds (model_vqa_science.py, model_vqa_mmbench.py)."""


def read_questions(
    path: Path, *, single_pred_prompt: bool = False, lang: str = "en"
) -> list[Question]:
    """Read a question file.

    Args:
        path: LLaVA's jsonl, ``{"question_id", "image", "text", "category"}`` a line; ScienceQA's
            JSON list of ``{"id", "image", "conversations"}``; or MMBench's TSV with pictures in
            it.
        single_pred_prompt: ask for the letter of an option (ScienceQA and MMBench; in LLaVA's
            jsonl the text says already what is asked for).
        lang: of that request, "en" or "cn".

    Raises:
        UserError: naming file and line, if the file is none of these, a question lacks something,
            or a flag does not fit the kind of file.
    """
    try:
        text = read_text(path, None)
    except UserError as error:
        raise UserError(f"--question-file {error}") from None
    start = text.lstrip()[:1]
    if start == "{":
        if single_pred_prompt:
            raise UserError(
                f"--single-pred-prompt: {path} is LLaVA's jsonl, whose questions say themselves "
                "what is asked for; the flag is for ScienceQA's and MMBench's files. Leave it out"
            )
        questions = [
            _line(line, f"{path}:{number}")
            for number, line in enumerate(text.split("\n"), 1)
            if line.strip()
        ]
    else:
        suffix = SINGLE_PRED_PROMPT[lang] if single_pred_prompt else ""
        if start == "[":
            rows = _parse(text, path)
            questions = [
                _conversation(row, f"{path}: entry {number}", suffix)
                for number, row in enumerate(rows)
            ]
        elif "\t" in text.partition("\n")[0]:
            return read_table(text, path, suffix)
        else:
            what = "is empty" if not start else f"begins with {text.lstrip()[:20]!r}"
            raise UserError(
                f"{path}: no question file ({what}); known are LLaVA's jsonl (an object a line), "
                "ScienceQA's JSON list and MMBench's TSV"
            )
    if not questions:
        raise UserError(f"{path}: the file holds no questions")
    return questions


def distinct(questions: Iterable[Question]) -> dict[tuple[str, str], Question]:
    """Return the questions by key, each once, in their order.

    Raises:
        UserError: if two have the same id and text and different pictures: a row of an answer
            file would not say which of them it answers.
    """
    found: dict[tuple[str, str], Question] = {}
    for question in questions:
        first = found.setdefault(question.key, question)
        if first.image != question.image:
            raise UserError(
                f"{question.name} has the id and text of {first.where} and another picture; their "
                "answers could not be told apart. Give each its own question_id"
            )
    return found


def _parse(text: str, where: object) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{where}" if error.lineno == 1 else f"{where}:{error.lineno}"
        raise UserError(f"{place}: broken JSON at column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise UserError(f"{where}: the JSON is nested too deep") from None


def _line(line: str, where: str) -> Question:
    row = _parse(line, where)
    if not isinstance(row, dict):
        raise UserError(f'{where}: not an object {{"question_id", "image", "text"}}: {line[:60]!r}')
    if "text" not in row and "conversations" in row:
        raise UserError(
            f"{where}: a conversation; ScienceQA's file is one JSON list, [{{...}}, {{...}}]"
        )
    image = check_image(row.get("image"), where)
    text = check_text(row.get("text"), where, "text")
    text = without_placeholder(text, image, where)
    category = row.get("category")
    return Question(
        check_id(row.get("question_id"), where, "question_id"),
        text,
        image,
        prompt=text,
        where=where,
        category=None if category is None else str(category),
    )


def _conversation(row: Any, where: str, suffix: str) -> Question:
    turns = row.get("conversations") if isinstance(row, dict) else None
    first = turns[0] if isinstance(turns, list) and turns else None
    if not isinstance(first, dict) or first.get("from") != "human":
        raise UserError(
            f'{where}: needs "conversations" that begin with {{"from": "human", "value": "..."}}'
        )
    question_id = check_id(row.get("id"), where, "id")
    image = check_image(row.get("image"), where)
    text = check_text(first.get("value"), where, "value")
    # LLaVA strips a turn with or without a placeholder (model_vqa_science.py).
    text = without_placeholder(text, image, where).strip() + suffix
    # Its scorer tells questions with a picture by the placeholder in the answer's prompt.
    prompt = f"{IMAGE_TOKEN}\n{text}" if image is not None else text
    return Question(question_id, text, image, prompt, where)
