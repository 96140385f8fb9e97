"""Templates: a record's turns as text segments, each supervised or not.

A mask is never worked out from token counts: a template says which text is to be learned, and
`llava_sea.data.tokenize` finds the tokens that overlap it. The strings are LLaVA's (`--version`).
What is supervised equals LLaVA wherever LLaVA trains on the record at all. Where its arithmetic
fails it masks the whole record without an error; here it is supervised, or named in an error.

Limits: one picture a record, in a human turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from llava_sea.constants import IMAGE_TOKEN
from llava_sea.data.records import Record, Turn
from llava_sea.errors import UserError


class Segment(NamedTuple):
    """A piece of the prompt; `is_image` marks the place of the picture (its text is no text)."""

    text: str
    supervised: bool
    is_image: bool = False


@dataclass(frozen=True)
class Template:
    """How turns become text: `first` U `reply` `answer_start` A `answer_end` `again` U2 `reply` ...

    Attributes:
        name: the value of ``--version``.
        first: text before the first human turn, the system prompt included.
        again: text before each later human turn.
        reply: text between a human turn and what is supervised of the answer.
        answer_start: supervised text before an answer.
        answer_end: supervised text after an answer.
        caption_only: LLaVA's stage 1: picture and caption, the instruction is thrown away.
    """

    name: str
    first: str
    again: str
    reply: str
    answer_start: str
    answer_end: str
    caption_only: bool = False


def _vicuna(name: str, person: str) -> Template:
    """The layout of Vicuna v1; the space before an answer is the answer's, as LLaVA counts it."""
    system = (
        f"A chat between a curious {person} and an artificial intelligence assistant. "
        f"The assistant gives helpful, detailed, and polite answers to the {person}'s questions."
    )
    return Template(name, f"{system} USER: ", "USER: ", " ASSISTANT:", " ", "</s>")


_PLAIN = Template("plain", "", "", "", "", "\n", caption_only=True)
_VICUNA_V1 = _vicuna("v1", "user")

TEMPLATES: dict[str, Template] = {
    "plain": _PLAIN,
    "v0_plain": _PLAIN,
    "v1": _VICUNA_V1,
    "vicuna_v1": _VICUNA_V1,
    "llava_v1": _vicuna("llava_v1", "human"),
}


def get_template(version: str) -> Template:
    """Return the template that ``--version`` names.

    Raises:
        UserError: if there is none of that name (LLaVA takes another one without a word).
    """
    if version not in TEMPLATES:
        known = ", ".join(TEMPLATES)
        raise UserError(f"--version {version!r}: no such conversation template; there are: {known}")
    return TEMPLATES[version]


def render(record: Record, template: Template) -> list[Segment]:
    """Write a record's turns as segments; their texts joined are LLaVA's prompt.

    As in LLaVA, ``<image>`` moves to the front of its turn, a model's turn that comes before the
    first human one is left out, and an empty answer is an empty answer: no end token, nothing to
    learn. In a record without a picture ``<image>`` is text like any other.

    Raises:
        UserError: if the turns do not alternate, the record has no picture where the template needs
            one, or its ``<image>`` do not fit its one picture.
    """
    if template.caption_only:
        return _render_caption(record, template)
    turns = record.turns[1:] if record.turns[0].role == "gpt" else record.turns
    if record.image is not None:
        _check_image_token(record, turns)
    segments: list[Segment] = []
    for number, turn in enumerate(turns):
        expected = ("human", "gpt")[number % 2]
        if turn.role != expected:
            raise UserError(
                f"{record.name}: turn {number + len(record.turns) - len(turns)} is from "
                f"{turn.role!r} where {expected!r} must speak; human and gpt turns alternate"
            )
        if turn.role == "human":
            segments.append(Segment(template.again if number else template.first, False))
            segments += _human_text(turn.text, has_image=record.image is not None)
            if number + 1 < len(turns):
                segments.append(Segment(template.reply, False))
        elif turn.text:
            answer = template.answer_start + turn.text + template.answer_end
            segments.append(Segment(answer, True))
    return segments


def _human_text(text: str, *, has_image: bool) -> list[Segment]:
    if not has_image or IMAGE_TOKEN not in text:
        return [Segment(text, False)]
    rest = text.replace(IMAGE_TOKEN, "").strip()
    image = Segment(IMAGE_TOKEN, False, is_image=True)
    return [image, Segment("\n" + rest, False)] if rest else [image]


def _render_caption(record: Record, template: Template) -> list[Segment]:
    """LLaVA's stage 1: the picture, the caption as it is and a newline; no end token."""
    if record.image is None:
        raise UserError(
            f'{record.name} has no "image"; --version {template.name} trains on pictures with '
            "captions. Remove the record, or use a conversation template such as v1"
        )
    roles = [turn.role for turn in record.turns]
    if roles != ["human", "gpt"]:
        raise UserError(
            f"{record.name}: --version {template.name} takes one human turn and one gpt turn, this "
            f"record has {roles}. Split it, or use a conversation template such as v1"
        )
    _check_image_token(record, record.turns)
    caption = record.turns[1].text
    if not caption.strip():
        raise UserError(f"{record.name}: the caption (its gpt turn) is empty; remove the record")
    return [
        Segment(IMAGE_TOKEN, False, is_image=True),
        Segment(caption + template.answer_end, True),
    ]


def _check_image_token(record: Record, turns: tuple[Turn, ...]) -> None:
    """One picture goes into one place, or LLaVA puts the next record's picture into the second."""
    if any(IMAGE_TOKEN in turn.text for turn in turns if turn.role == "gpt"):
        raise UserError(
            f"{record.name}: {IMAGE_TOKEN} stands in a gpt turn; a picture belongs in a human "
            "turn. Move it, or write the word without its brackets"
        )
    count = sum(turn.text.count(IMAGE_TOKEN) for turn in turns)
    if count != 1:
        raise UserError(
            f"{record.name}: one picture ({record.image!r}) but {count} {IMAGE_TOKEN} in its human "
            f"turns; write {IMAGE_TOKEN} once, where the picture belongs"
        )
