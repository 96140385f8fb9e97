"""A record's turns as text segments, each supervised or not, by the template of ``--version``.

A mask is never worked out from token counts: a template says which text is to be learned, and
`llava_sea.data.tokenize` finds the tokens that overlap it. What is supervised equals LLaVA wherever
LLaVA trains on the record at all. Where its arithmetic fails it masks the whole record without an
error; here it is supervised, or named in an error.

Limits: images stand in human turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from llava_sea.constants import IMAGE_TOKEN
from llava_sea.data import problems
from llava_sea.data.records import Record, Turn
from llava_sea.errors import UserError
from llava_sea.templates import IMAGE_BREAK, TEMPLATES, Template, get_template

__all__ = [
    "IMAGE_BREAK",
    "TEMPLATES",
    "Segment",
    "Template",
    "begins_with_gpt",
    "get_template",
    "has_literal_image",
    "render",
    "render_prompt",
]


class Segment(NamedTuple):
    """A piece of the prompt; `is_image` marks the place of an image (its text is no text)."""

    text: str
    supervised: bool
    is_image: bool = False


def render(record: Record, template: Template) -> list[Segment]:
    """Write a record's turns as segments; their texts joined are LLaVA's prompt.

    As in LLaVA, a turn's one ``<image>`` moves to its front, a model's turn that comes before the
    first human one is left out, and an empty answer is an empty answer: no end token, nothing to
    learn. In a record without an image ``<image>`` is text like any other. Several ``<image>`` in
    one turn stay where they are, each an image (LLaVA makes one of them).

    Raises:
        RecordError: if the turns do not alternate, the template takes one image and the record has
            another number of them, or its ``<image>`` do not fit its images.
    """
    if template.caption_only:
        return _render_caption(record, template)
    turns = record.turns[1:] if begins_with_gpt(record) else record.turns
    skipped = len(record.turns) - len(turns)
    if record.images:
        _check_image_tokens(record, turns)

    segments = _render_turns(
        turns,
        skipped,
        template,
        lambda what: record.error(problems.TURNS, what),
        has_images=bool(record.images),
    )
    if template.jinja:
        difference = compare_own(template, turns, segments, has_images=bool(record.images))
        if difference:
            kind = problems.OWN_TEMPLATE
            raise record.error(kind, f"{difference}; {kind.way_out}")
    # A last question without an answer stays open: nothing comes after it that could be learned.
    return segments[:-1] if turns and turns[-1].role == "human" else segments


def begins_with_gpt(record: Record) -> bool:
    """Say whether `render` leaves out a record's first turn, as LLaVA does."""
    return record.turns[0].role == "gpt"


def has_literal_image(record: Record) -> bool:
    """Say whether a record without images has ``<image>`` somewhere in its text."""
    return not record.images and any(IMAGE_TOKEN in turn.text for turn in record.turns)


def render_prompt(
    turns: Sequence[Turn], template: Template, num_images: int | None = None
) -> list[Segment]:
    """Write a conversation that waits for an answer; it ends where a supervised answer would begin.

    Of a template for captions only the image remains. `num_images` are the images there are; None
    takes each ``<image>`` of the human turns for one, 0 takes ``<image>`` for text.

    Raises:
        UserError: if the turns do not alternate or end otherwise, or ``<image>`` stands in another
            number of places than there are images.
    """
    if not turns or turns[-1].role != "human":
        raise UserError("a prompt must end with a human turn: that is the one to answer")
    count = _count_places(turns)
    if num_images not in (None, 0, count):
        raise UserError(f"{num_images} images but {count} {IMAGE_TOKEN} in the prompt's turns")
    if template.caption_only:
        if count != 1 or num_images == 0:
            raise UserError(f"--version {template.name} takes one image and nothing else")
        return [Segment(IMAGE_TOKEN, False, is_image=True)]

    has_images = num_images != 0 and count > 0
    return _render_turns(
        turns, 0, template, lambda what: UserError(f"the prompt: {what}"), has_images=has_images
    )


def _render_turns(
    turns: Sequence[Turn],
    skipped: int,
    template: Template,
    fault: Callable[[str], UserError],
    *,
    has_images: bool,
) -> list[Segment]:
    segments = [Segment(template.system, False)] if template.system else []
    for number, turn in enumerate(turns):
        expected = ("human", "gpt")[number % 2]
        if turn.role != expected:
            raise fault(
                f"turn {number + skipped} is from {turn.role!r} where {expected!r} must "
                "speak; human and gpt turns alternate"
            )
        is_last = number == len(turns) - 1
        if turn.role == "human":
            text = _trim(turn.text, template.trim_user)
            segments.append(Segment(template.again if number else template.first, False))
            segments += _human_text(text, has_images=has_images)
            segments.append(Segment(template.reply, False))
            continue
        text = _trim(turn.text, template.trim_answer)
        if text or template.jinja:  # an LLM's own template ends an empty answer, too
            end = template.last_end if is_last and template.jinja else template.answer_end
            segments.append(Segment(template.answer_start + text + end, bool(text)))
        after = template.closing if is_last and template.jinja else template.after
        if after and (text or template.jinja):
            segments.append(Segment(after, False))
    return segments


def _trim(text: str, ends: tuple[str | None, str | None]) -> str:
    return text.lstrip(ends[0]).rstrip(ends[1])


def compare_own(
    template: Template,
    turns: Sequence[Turn],
    segments: Sequence[Segment] = (),
    *,
    has_images: bool = False,
) -> str:
    """Say how an LLM's own chat template writes turns otherwise than `segments`; "" if it does not.

    Without `segments` it is compared with those that training has.
    """
    from llava_sea.own_template import write

    segments = segments or _render_turns(turns, 0, template, UserError, has_images=has_images)
    messages = []
    for turn in turns:
        is_human = turn.role == "human"
        text = _trim(turn.text, template.trim_user if is_human else template.trim_answer)
        if is_human:
            text = "".join(part.text for part in _human_text(text, has_images=has_images))
        messages.append({"role": "user" if is_human else "assistant", "content": text})
    try:
        text = write(template, messages, prompt=turns[-1].role == "human")
    except UserError as error:
        return f"the LLM's chat template: {error}"
    return unlike(text, "".join(segment.text for segment in segments))


def unlike(text: str, training: str) -> str:
    """Show the first place where a chat template's text differs from training's; "" if none."""
    if text == training:
        return ""
    pairs = enumerate(zip(text, training, strict=False))
    same = next((n for n, (a, b) in pairs if a != b), min(len(text), len(training)))
    here, there = text[same : same + 60], training[same : same + 60]
    return f"after {text[:same][-20:]!r} the LLM's chat template has {here!r}, training {there!r}"


def _human_text(text: str, *, has_images: bool) -> list[Segment]:
    parts = text.split(IMAGE_TOKEN) if has_images else [text]
    if len(parts) == 2:
        rest = "".join(parts).strip()
        parts = ["", IMAGE_BREAK + rest if rest else ""]
    segments: list[Segment] = []
    for number, part in enumerate(parts):
        if number:
            segments.append(Segment(IMAGE_TOKEN, False, is_image=True))
        if part or len(parts) == 1:
            segments.append(Segment(part, False))
    return segments


def _render_caption(record: Record, template: Template) -> list[Segment]:
    """LLaVA's stage 1: the image, the caption as it is and a newline; no end token."""
    version, other = f"--version {template.name}", "or use a conversation template such as v1"
    if not record.images:
        raise record.error(
            problems.NO_IMAGE,
            f'has no "image"; {version} trains on images with captions. Remove the record, {other}',
        )
    roles = [turn.role for turn in record.turns]
    if len(record.images) > 1 or roles != ["human", "gpt"]:
        raise record.error(
            problems.TURNS,
            f"has {len(record.images)} image(s) and turns of {roles}; {version} takes one image, "
            f"one human turn and one gpt turn. Split it, {other}",
        )
    _check_image_tokens(record, record.turns)
    caption = record.turns[1].text
    if not caption.strip():
        raise record.error(
            problems.EMPTY_CAPTION, "the caption (its gpt turn) is empty; remove the record"
        )
    return [
        Segment(IMAGE_TOKEN, False, is_image=True),
        Segment(caption + template.answer_end, True),
    ]


def _count_places(turns: Sequence[Turn]) -> int:
    return sum(turn.text.count(IMAGE_TOKEN) for turn in turns if turn.role == "human")


def _check_image_tokens(record: Record, turns: Sequence[Turn]) -> None:
    """Each image has one place, or LLaVA puts the next record's images into the others."""
    if any(IMAGE_TOKEN in turn.text for turn in turns if turn.role == "gpt"):
        raise record.error(
            problems.IMAGE_TOKENS,
            f"{IMAGE_TOKEN} stands in a gpt turn; an image belongs in a human "
            "turn. Move it, or write the word without its brackets",
        )
    count = _count_places(turns)
    if count != len(record.images):
        raise record.error(
            problems.IMAGE_TOKENS,
            f"{len(record.images)} image(s) ({', '.join(map(repr, record.images))}) but {count} "
            f"{IMAGE_TOKEN} in its human turns; write {IMAGE_TOKEN} once for each, where the image "
            "belongs",
        )
