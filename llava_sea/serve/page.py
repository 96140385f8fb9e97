"""Behind the page of `serve.web`: a model, images dropped, questions asked; text comes back.

A visitor's mistakes come back as text. Images are opened within the limits of `data.images` and
`serve.image`; questions and conversations have limits of their own.
"""

from __future__ import annotations

import argparse
import copy
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup
from torch import nn
from transformers.utils import logging as hf_logging

from llava_sea.conversation import Template
from llava_sea.data.images import decode_image, patch_grid
from llava_sea.data.words import vocabulary_words
from llava_sea.errors import UserError
from llava_sea.files import read_file
from llava_sea.labels.words_file import read_words
from llava_sea.model.load import Loaded
from llava_sea.model.projector_io import load_projector
from llava_sea.model.stage1 import Stage1Model
from llava_sea.report.page import panels
from llava_sea.report.reading import PatchReader, Words, as_seen
from llava_sea.serve.chat import Chat
from llava_sea.serve.image import MAX_BYTES
from llava_sea.serve.setup import load_talker, new_chat
from llava_sea.terminal import printable

MAX_QUESTION = 2000
"""Letters."""
MAX_QUESTIONS = 16
"""Of one conversation."""
NUM_WORDS = 20_000
"""Most frequent words of a list, as in the report."""
START = "Drop an image: its patches and the words nearest to each appear here."
POINT = "Point at a patch, or tap it, for its nearest words and their cosines."

Message = dict[str, str]


@dataclass
class Page:
    """A model, and all that the page does with it; an error becomes text."""

    options: argparse.Namespace
    loaded: Loaded
    template: Template
    reader: PatchReader
    projectors: dict[str, nn.Module]
    """By label; one is the model's own."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held by whatever uses the model."""

    def start(self, path: str | None) -> tuple[Chat | None, str]:
        """Open an image; return a conversation about it, and its patches as HTML."""
        if path is None:
            return None, note(START)
        try:
            data = read_file(path, MAX_BYTES)
            image = decode_image(data, Path(path).name, "drop another image")
            with self.lock:
                chat = new_chat(self.options, self.loaded, self.template, image)
                return chat, self.patches(chat)
        except (UserError, MemoryError, RuntimeError) as error:
            return None, note(told(error, path), "problem")

    def patches(self, chat: Chat) -> str:
        """Return the image that a conversation is about with each patch's words, as HTML."""
        model, grids = self.loaded.model.model, []
        own = model.multi_modal_projector
        try:
            for label, projector in self.projectors.items():
                model.multi_modal_projector = projector
                grids.append(self.reader.grid(label, chat.pixels))
        finally:
            model.multi_modal_projector = own
        image = as_seen(chat.pixels, self.loaded.transform.geometry())
        return panels(image, grids) + note(POINT)

    def ask(
        self, question: str, history: list[Message], chat: Chat | None
    ) -> Iterator[tuple[list[Message], str]]:
        """Yield the conversation as it grows, and the text that stays in the question's box."""
        asked: list[Message] = [*history, {"role": "user", "content": question.strip()}]
        answer = ""
        try:
            check_question(question, chat)
            assert chat is not None
            for answer in chat.stream(question.strip(), self.lock):
                yield [*asked, {"role": "assistant", "content": printable(answer)}], ""
            if not answer:
                yield [*asked, {"role": "assistant", "content": "(an empty answer)"}], ""
        except (UserError, MemoryError, RuntimeError) as error:
            yield [*history, {"role": "assistant", "content": f"({told(error)})"}], question


def check_question(question: str, chat: Chat | None) -> None:
    """Raise a `UserError` over a question that is not asked."""
    if chat is None:
        raise UserError("drop an image first, then ask about it")
    if not question.strip():
        raise UserError("type a question first")
    if len(question) > MAX_QUESTION:
        raise UserError(
            f"the question has {len(question):,} letters, at most {MAX_QUESTION:,} are read; "
            "shorten it"
        )
    if len(chat.turns) >= 2 * MAX_QUESTIONS:
        raise UserError(
            f"this conversation has {MAX_QUESTIONS} questions, the most it may have; start a new "
            "one"
        )


def told(error: Exception, path: str = "") -> str:
    """Return an error's text for the page, without the folder of an image; a defect is raised."""
    if isinstance(error, UserError):
        return printable(str(error).replace(path, Path(path).name) if path else str(error))
    if isinstance(error, MemoryError) or "out of memory" in str(error):
        return "the device has too little memory for this; ask less, or choose --load-4bit"
    raise error


def note(text: str, kind: str = "hint") -> Markup:
    """Return a line of text as HTML."""
    return Markup('<p class="{}">{}</p>').format(kind, text)


def open_page(options: argparse.Namespace) -> Page:
    """Load what the flags name."""
    hf_logging.disable_progress_bar()
    loaded, template = load_talker(options)
    model = Stage1Model(loaded.model)
    projectors = {"nearest words": model.projector}
    if options.before:
        before = copy.deepcopy(model.projector)
        try:
            load_projector(before, options.before)
        except UserError as error:
            raise UserError(f"--before {error}") from None
        projectors = {"before training": before, "after training": model.projector}
    reader = PatchReader(
        model,
        loaded.tokenizer,
        find_words(options.words, loaded.tokenizer, model.num_rows),
        loaded.transform,
        "",
        patch_grid(loaded.model.config.vision_config),
        device=loaded.model.device,
    )
    return Page(options, loaded, template, reader, projectors)


def find_words(path: str | None, tokenizer: Any, num_rows: int) -> Words:
    """Return the words of a list, else those of the LLM's vocabulary."""
    if path is None:
        return Words(vocabulary_words(tokenizer, num_rows), tokenizer, num_rows)
    return Words([entry.word for entry in read_words(path)[:NUM_WORDS]], tokenizer, num_rows)
