"""The chat template (Jinja) of a written checkpoint: the training template, token for token.

Training tokenises the text between two images by itself. In a chat template all is one text,
and SentencePiece without `legacy` puts no space before text that follows a special token, where
training's piece begins with one. So the template is written in several ways (a space after BOS,
after an image, or not) and the one is kept whose ids equal training's on a set of conversations.

Limits: white space that begins an answer may become one token with the end of the prompt (Llama 3,
Qwen, Gemma: newlines), and no text keeps the two apart; there the prompt alone is compared.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llava_sea.constants import IGNORE_INDEX, IMAGE_TOKEN
from llava_sea.conversation import Template
from llava_sea.data.records import Record, Turn
from llava_sea.data.tokenize import Tokenized, tokenize_prompt, tokenize_record
from llava_sea.model.chat_jinja import Spaces, write_jinja

_IMAGE_TOKENS = 2
_MAX_LENGTH = 1_000_000


@dataclass(frozen=True)
class _Expected:
    """A conversation as training and as generation here tokenise it."""

    chat: list[str]
    whole: Tokenized
    prompt: tuple[list[int], list[bool]]
    joins: bool
    """Whether its answer may join with the prompt, if one text holds both."""


@dataclass(frozen=True)
class Choice:
    """The best way to write a template, and how it differs from training: empty if it does not."""

    jinja: str
    difference: str


def choose_chat_template(
    template: Template, training_tokenizer: Any, written_tokenizer: Any
) -> Choice:
    """Write a template in every way and keep the first whose ids are training's.

    The written tokenizer is the training's with the token ``<image>``.
    """
    chats = _chats(template)
    expected = [
        _Expected(
            chat,
            tokenize_record(record, template, training_tokenizer, _IMAGE_TOKENS, _MAX_LENGTH),
            tokenize_prompt(record.turns[:-1], template, training_tokenizer, _IMAGE_TOKENS),
            joins=chat[-1][:1].isspace() and not template.caption_only,
        )
        for chat, record in zip(chats, _records(chats), strict=True)
    ]
    best: Choice | None = None
    fewest = len(expected) + 1
    for spaces in _ways(template, training_tokenizer):
        jinja = write_jinja(template, spaces)
        differences = [
            difference
            for one in expected
            if (difference := _compare(one, jinja, written_tokenizer))
        ]
        if len(differences) < fewest:
            fewest = len(differences)
            best = Choice(jinja, differences[0] if differences else "")
        if not differences:
            break
    assert best is not None
    return best


def _ways(template: Template, tokenizer: Any) -> Iterator[Spaces]:
    leads = [""]
    if tokenizer.bos_token:
        leads.append("bos_token")
    own = template.bos
    if own and own != tokenizer.bos_token:
        leads.append(json.dumps(own))
    special = next(iter(tokenizer.all_special_tokens), "")
    texts = ["a", " a", special + "a"]
    plain, blank, after = tokenizer(texts, add_special_tokens=False).input_ids
    # Where a text gets a prefix that it does not get after a token, a space makes up for it.
    spaces = ("", " ") if after[-len(plain) :] == plain else (" ", "")
    for after_lead, after_image, before_reply in itertools.product(spaces, repeat=3):
        for lead in leads:
            # transformers' own Llama tokenizers take a text's first blank for the prefix.
            yield Spaces(lead, after_lead, after_image, before_reply, before_blank=blank != plain)


def _chats(template: Template) -> list[list[str]]:
    """Conversations to compare on: human and gpt in turn."""
    if template.caption_only:
        return [["<image>", "a red kite above two trees"], ["<image>\nIgnored.", " spaced  "]]
    return [
        ["<image>\nWhat is this?", "A red kite."],
        ["What is this?\n<image>", "A red kite.", "And that, here: 7?", "Two trees.\nGreen ones."],
        ["<image>", "kite"],
        ["Hello, who is there?", "Me.", " Is it? ", " Yes "],
        ["Do you see?", "Not yet.", "<image>\n  Now?  ", "Yes.", "(Sure?)", "Sure."],
        ["{'a': 1}", "\nb"],
    ]


def _records(chats: Sequence[Sequence[str]]) -> list[Record]:
    records = []
    for number, chat in enumerate(chats):
        turns = tuple(Turn(("human", "gpt")[turn % 2], text) for turn, text in enumerate(chat))
        image = "picture.png" if any(IMAGE_TOKEN in text for text in chat) else None
        records.append(Record(number, f"chat-{number}", image, turns))
    return records


def _compare(expected: _Expected, jinja: str, tokenizer: Any) -> str:
    """Say how the ids of a conversation, or of its prompt, differ from training's; "" if not."""
    image_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)

    def with_images(ids: Sequence[int], image_mask: Sequence[bool]) -> list[int]:
        pairs = zip(ids, image_mask, strict=True)
        return [image_id if is_image else token for token, is_image in pairs]

    training = with_images(expected.whole.input_ids, expected.whole.image_mask)
    if not expected.joins:
        whole = _ids(expected.chat, jinja, tokenizer, image_id, prompt=False)
        if whole != training:
            return _difference(training, whole, tokenizer)
    before = with_images(*expected.prompt)
    prompt = _ids(expected.chat[:-1], jinja, tokenizer, image_id, prompt=True)
    if prompt != before:
        return "the prompt: " + _difference(before, prompt, tokenizer)
    if not expected.joins and expected.whole.labels[len(prompt)] == IGNORE_INDEX:
        return "the prompt ends before what training takes for granted"
    return ""


def _ids(
    chat: Sequence[str], jinja: str, tokenizer: Any, image_id: int, *, prompt: bool
) -> list[int]:
    messages = [
        {"role": ("user", "assistant")[turn % 2], "content": text} for turn, text in enumerate(chat)
    ]
    text = tokenizer.apply_chat_template(
        messages, chat_template=jinja, tokenize=False, add_generation_prompt=prompt
    )
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return [i for token in ids for i in [token] * (_IMAGE_TOKENS if token == image_id else 1)]


def _difference(training: list[int], written: list[int], tokenizer: Any) -> str:
    first = next(
        (n for n, (a, b) in enumerate(zip(training, written, strict=False)) if a != b),
        min(len(training), len(written)),
    )
    show = tokenizer.convert_ids_to_tokens
    return (
        f"from token {first} on, training has {show(training[first : first + 5])}, the chat "
        f"template {show(written[first : first + 5])}"
    )
