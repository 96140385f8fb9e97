"""A question of a benchmark, whatever file it came from, and the row that its answer becomes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llava_sea.constants import IMAGE_TOKEN
from llava_sea.errors import UserError


@dataclass(frozen=True)
class Question:
    """A question with at most one picture.

    Attributes:
        question_id: as the file has it; need not be unique (TextVQA's is the picture's).
        text: the human turn without the picture's placeholder.
        image: the picture's path below the image folder, or its file's bytes (MMBench), or None.
        prompt: the text as the answer's row repeats it.
        where: file and place in it, for messages.
        category: the file's, if it has one.
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
        """What an answer's row is found by: id and prompt."""
        return str(self.question_id), self.prompt

    @property
    def name(self) -> str:
        """What messages call the question."""
        return f"{self.where}: question {self.question_id!r}"

    @property
    def first_turn(self) -> str:
        """The human turn, with the placeholder where there is a picture."""
        return self.text if self.image is None else f"{IMAGE_TOKEN}\n{self.text}"

    def answer_id(self, model_id: str) -> str:
        """Return the id of a model's answer; another model, prompt or picture gives another one."""
        image = self.image
        if isinstance(image, bytes):
            image = hashlib.sha256(image).hexdigest()
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


def check_id(value: Any, where: str, name: str) -> int | str:
    """Return an id.

    Raises:
        UserError: if it is no text and no whole number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        raise UserError(f'{where}: "{name}" must be a text or a whole number, it is {value!r}')
    return value


def check_text(value: Any, where: str, name: str) -> str:
    """Return a question's text.

    Raises:
        UserError: if it is no text, is empty, or holds half a character.
    """
    if not isinstance(value, str) or not value.strip():
        raise UserError(f'{where}: "{name}" must be the question\'s text, it is {value!r}')
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f'{where}: "{name}" holds half a character (character {error.start} is an unpaired '
            "surrogate, often a cut-off emoji); mend the text"
        ) from None
    return value


def check_image(value: Any, where: str) -> str | None:
    """Return the path of a picture, None where there is none.

    Raises:
        UserError: if it is something else.
    """
    if value is not None and (not isinstance(value, str) or not value):
        raise UserError(
            f'{where}: "image" must be a path below the image folder, it is {value!r}; leave it '
            "out where there is no picture"
        )
    return value


def without_placeholder(text: str, image: object, where: str) -> str:
    """Take the picture's place out of a human turn: it comes first, always.

    Raises:
        UserError: if there is a place and no picture, or several.
    """
    count = text.count(IMAGE_TOKEN)
    if count > (image is not None):
        raise UserError(
            f"{where}: {count} {IMAGE_TOKEN} in the text and "
            f"{'one picture' if image is not None else 'no picture'}; mend the text or name the "
            'picture in "image"'
        )
    return text.replace(IMAGE_TOKEN, "").strip() if count else text
