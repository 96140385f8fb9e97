"""The chat template (Jinja) of a written checkpoint: the training template, token for token.

A message's content is a string, with ``<image>`` where an image goes, or a list of image and text
items, which are joined. A turn's only image moves to its front, as in training; several stay
where they are. A system message is refused: the model knows the one it was trained with. An LLM's
own template (``--version auto``) is kept as it is, behind a part that makes such texts of messages.

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
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llava_sea.constants import IGNORE_INDEX, IMAGE_TOKEN
from llava_sea.conversation import Template
from llava_sea.data.records import Record, Turn
from llava_sea.data.tokenize import tokenize_prompt, tokenize_record
from llava_sea.files import read_text

_IMAGE_TOKENS = 2
_MAX_LENGTH = 1_000_000


class Spaces(NamedTuple):
    """What a way of writing the template puts at the front, and where it adds a space."""

    lead: str
    """``bos_token``, a token's text in quotes, or nothing: a Jinja expression."""
    after_lead: str
    after_image: str
    before_reply: str
    """After an image that no text follows."""
    before_blank: bool = False
    """Whether `after_image` also stands before text that begins with a blank."""


class Choice(NamedTuple):
    """The best way to write a template, and how it differs from training: empty if it does not."""

    jinja: str
    difference: str


def write_jinja(template: Template, spaces: Spaces) -> str:
    """Write a template as Jinja, from its texts and ``chat_template.jinja``."""
    source = read_text(Path(__file__).with_suffix(".jinja"))
    parts = source.split("{# cut #}\n")
    begin, content, is_user, user, image, reply, caption, end, *own = parts
    lead = [f"{{{{- {spaces.lead} -}}}}"] if spaces.lead else []
    if spaces.lead and template.system + template.first:
        lead += _put(spaces.after_lead)
    texts = {
        "FIRST": template.first,
        "AGAIN": template.again,
        "IMAGE": IMAGE_TOKEN,
        "GAP": spaces.after_image,
        "BREAK": spaces.after_image + "\n",
        "REPLY_AFTER_IMAGE": spaces.before_reply * bool(template.reply) + template.reply,
        "REPLY": template.reply,
        "ANSWER_GAP": spaces.after_image * template.caption_only,
        "START": template.answer_start,
        "END": template.answer_end + template.after,
        "BEFORE_REPLY": spaces.before_reply,
    }
    turn = caption if template.caption_only else user + image + reply
    body = begin + content + is_user + turn + end
    if template.jinja:
        body = own[0] + content + own[1] + image + own[2]
        for speaker, ends in (("USER", template.trim_user), ("ANSWER", template.trim_answer)):
            calls = zip((".lstrip", ".rstrip"), ends, strict=True)
            trim = [f"{call}({json.dumps(c) if c else ''})" for call, c in calls if c != ""]
            body = body.replace(f"@TRIM_{speaker}@", "".join(trim))
    if spaces.before_blank:
        body = re.sub(r" and not [\w.]+\.startswith\(' '\)", "", body)
    for name, text in texts.items():
        body = body.replace(f"@{name}@", json.dumps(text, ensure_ascii=False))
    if template.jinja:
        return body + template.jinja
    return "\n".join([*lead, *_put(template.system), body])


def _put(text: str) -> list[str]:
    return [f"{{{{- {json.dumps(text, ensure_ascii=False)} -}}}}"] if text else []


def choose_chat_template(
    template: Template, training_tokenizer: Any, written_tokenizer: Any
) -> Choice:
    """Write a template in every way and keep the first whose ids are training's.

    The written tokenizer is the training's with the token ``<image>``.
    """
    expected = [_Expected(chat, template, training_tokenizer) for chat in _chats(template)]
    found: list[tuple[int, Choice]] = []
    for spaces in _ways(template, training_tokenizer):
        jinja = write_jinja(template, spaces)
        compared = [one.compare(jinja, written_tokenizer) for one in expected]
        differences = [difference for difference in compared if difference]
        if not differences:
            return Choice(jinja, "")
        found.append((len(differences), Choice(jinja, differences[0])))
    return min(found, key=lambda one: one[0])[1]


def _ways(template: Template, tokenizer: Any) -> Iterator[Spaces]:
    leads = [""]
    if tokenizer.bos_token and not template.jinja:  # that has its own
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


class _Expected:
    """A conversation as training and as generation here tokenise it."""

    def __init__(self, chat: list[str], template: Template, tokenizer: Any) -> None:
        turns = tuple(Turn(("human", "gpt")[turn % 2], text) for turn, text in enumerate(chat))
        image = "image.png" if any(IMAGE_TOKEN in text for text in chat) else None
        record = Record(0, "chat", image, turns)
        self.chat = chat
        self.whole = tokenize_record(record, template, tokenizer, _IMAGE_TOKENS, _MAX_LENGTH)
        self.prompt = tokenize_prompt(turns[:-1], template, tokenizer, _IMAGE_TOKENS)
        self.joins = chat[-1][:1].isspace() and not template.caption_only
        """Whether its answer may join with the prompt, if one text holds both."""

    def compare(self, jinja: str, tokenizer: Any) -> str:
        """Say how the ids that a chat template gives differ from training's; "" if not."""
        image_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)

        def with_images(ids: Sequence[int], image_mask: Sequence[bool]) -> list[int]:
            pairs = zip(ids, image_mask, strict=True)
            return [image_id if is_image else token for token, is_image in pairs]

        if not self.joins:
            training = with_images(self.whole.input_ids, self.whole.image_mask)
            whole = _ids(self.chat, jinja, tokenizer, image_id, prompt=False)
            if whole != training:
                return _difference(training, whole, tokenizer)
        before = with_images(*self.prompt)
        prompt = _ids(self.chat[:-1], jinja, tokenizer, image_id, prompt=True)
        if prompt != before:
            return "the prompt: " + _difference(before, prompt, tokenizer)
        if not self.joins and self.whole.labels[len(prompt)] == IGNORE_INDEX:
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
