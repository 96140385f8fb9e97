"""Question files: LLaVA's jsonl, ScienceQA's list of conversations, MMBench's table.

The first characters of a file tell which of them it is.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava_sea.constants import IMAGE_TOKEN
from llava_sea.errors import UserError
from llava_sea.eval.scorers.mmbench import images_by_index, read_table, shown_options
from llava_sea.files import read_text

SINGLE_PRED_PROMPT = {
    "en": "\nAnswer with the option's letter from the given choices directly.",
    "cn": "\n请直接回答选项字母。",
}
"""What LLaVA's ``--single-pred-prompt`` adds (model_vqa_science.py, model_vqa_mmbench.py)."""


@dataclass(frozen=True)
class Question:
    """A question with at most one image.

    Attributes:
        question_id: as the file has it; need not be unique (TextVQA's is the image's).
        text: the human turn without the image's placeholder.
        image: the image's path below the image folder, or its file's bytes (MMBench).
        prompt: the text as the answer's row repeats it.
        where: file and place in it, for messages.
        extra: more fields of the answer's row.
    """

    question_id: int | str
    text: str
    image: str | bytes | None
    prompt: str
    where: str
    category: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        """Id and prompt, by which an answer's row is found."""
        return str(self.question_id), self.prompt

    @property
    def name(self) -> str:
        """Place and id, for messages."""
        return f"{self.where}: question {self.question_id!r}"

    @property
    def first_turn(self) -> str:
        """The human turn, with the placeholder where there is an image."""
        return self.text if self.image is None else f"{IMAGE_TOKEN}\n{self.text}"

    def answer_id(self, model_id: str) -> str:
        """Return the id of a model's answer; another model, prompt or image gives another one."""
        image = self.image
        image = hashlib.sha256(image).hexdigest() if isinstance(image, bytes) else image
        parts = json.dumps([model_id, *self.key, image])
        return hashlib.sha256(parts.encode()).hexdigest()[:22]

    def row(self, text: str, model_id: str) -> dict[str, Any]:
        """Return a line of LLaVA's answer files."""
        return {
            "question_id": self.question_id,
            **self.extra,
            "prompt": self.prompt,
            "text": text,
            "answer_id": self.answer_id(model_id),
            "model_id": model_id,
            "metadata": {},
        }


def read_questions(
    path: Path, *, single_pred_prompt: bool = False, lang: str = "en"
) -> list[Question]:
    """Read a question file, in its order.

    Args:
        path: LLaVA's jsonl, ``{"question_id", "image", "text", "category"}`` a line; ScienceQA's
            JSON list of ``{"id", "image", "conversations"}``; or MMBench's TSV.
        single_pred_prompt: ask for the letter of an option (ScienceQA and MMBench; in LLaVA's
            jsonl the text asks for it already).
        lang: of that request, "en" or "cn".
    """
    try:
        text = read_text(path)
    except UserError as error:
        raise UserError(f"--question-file {error}") from None
    start = text.lstrip()[:1]
    suffix = SINGLE_PRED_PROMPT[lang] if single_pred_prompt else ""
    if start == "{":
        if single_pred_prompt:
            raise UserError(
                f"--single-pred-prompt: {path} is LLaVA's jsonl, whose questions ask for the "
                "letter themselves; the flag is for ScienceQA's and MMBench's files. Leave it out"
            )
        lines = enumerate(text.split("\n"), 1)
        questions = [_line(line, f"{path}:{number}") for number, line in lines if line.strip()]
    elif start == "[":
        rows = enumerate(_parse(text, path))
        questions = [_conversation(row, f"{path}: entry {n}", suffix) for n, row in rows]
    elif "\t" in text.partition("\n")[0]:
        questions = _table(path, text, suffix)
    else:
        found = "is empty" if not start else f"begins with {text.lstrip()[:20]!r}"
        raise UserError(
            f"{path}: no question file ({found}); known are LLaVA's jsonl (an object a line), "
            "ScienceQA's JSON list and MMBench's TSV"
        )
    if not questions:
        raise UserError(f"{path}: the file holds no questions")
    return questions


def distinct(questions: Iterable[Question]) -> dict[tuple[str, str], Question]:
    """Return the questions by key, each once, in their order."""
    found: dict[tuple[str, str], Question] = {}
    for question in questions:
        first = found.setdefault(question.key, question)
        if first.image != question.image:
            raise UserError(
                f"{question.name} has the id and text of {first.where} and another image; their "
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
    image = _image(row, where)
    text = _without_placeholder(_text(row, "text", where), image, where)
    category = row.get("category")
    category = None if category is None else str(category)
    return Question(_id(row, "question_id", where), text, image, text, where, category)


def _conversation(row: Any, where: str, suffix: str) -> Question:
    turns = row.get("conversations") if isinstance(row, dict) else None
    first = turns[0] if isinstance(turns, list) and turns else None
    if not isinstance(first, dict) or first.get("from") != "human":
        raise UserError(
            f'{where}: needs "conversations" that begin with {{"from": "human", "value": "..."}}'
        )
    image = _image(row, where)
    # LLaVA strips a turn with or without a placeholder (model_vqa_science.py).
    text = _without_placeholder(_text(first, "value", where), image, where).strip() + suffix
    # Its scorer tells questions with an image by the placeholder in the answer's prompt.
    prompt = f"{IMAGE_TOKEN}\n{text}" if image is not None else text
    return Question(_id(row, "id", where), text, image, prompt, where)


def _table(path: Path, table: str, suffix: str) -> list[Question]:
    r"""Return MMBench's questions, ``hint\nquestion\nA. ..\nB. ..`` and the suffix."""
    rows = read_table(path, table)
    images = images_by_index(rows, path)
    questions = []
    for row in rows:
        index, category = row["index"], row.get("category") or None
        options = shown_options(row, string.ascii_uppercase)
        lines = [row["hint"]] if row.get("hint") else []
        lines.append(_text(row, "question", f"{path}: index {index}"))
        lines += [f"{letter}. {option}" for letter, option in options.items()]
        text = "\n".join(lines) + suffix
        extra = {"round_id": 0, "options": [*options.values()], "option_char": [*options]}
        question = Question(int(index), text, images[index], text, str(path), category, extra)
        questions.append(question)
    return questions


def _id(row: Mapping[str, Any], name: str, where: str) -> int | str:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        raise UserError(f'{where}: "{name}" must be a text or a whole number, it is {value!r}')
    return value


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f'{where}: "{name}" must be the question\'s text, it is {value!r}')
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f'{where}: "{name}" holds half a character (character {error.start} is an unpaired '
            "surrogate, often a cut-off emoji); fix the text"
        ) from None
    return value


def _image(row: Mapping[str, Any], where: str) -> str | None:
    value = row.get("image")
    if value is not None and (not isinstance(value, str) or not value):
        raise UserError(
            f'{where}: "image" must be a path below the image folder, it is {value!r}; leave it '
            "out where there is no image"
        )
    return value


def _without_placeholder(text: str, image: object, where: str) -> str:
    """Take the image's placeholder out of a human turn: the image always comes first."""
    count = text.count(IMAGE_TOKEN)
    if count > (image is not None):
        images = "no image" if image is None else "one image"
        raise UserError(
            f"{where}: {count} {IMAGE_TOKEN} in the text and {images}; fix the text or name the "
            'image in "image"'
        )
    return text.replace(IMAGE_TOKEN, "").strip() if count else text
