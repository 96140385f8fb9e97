"""A conversation about one image: turns in, the next answer out.

The prompt is made by training's own tokenisation, so the model reads what it was trained on. Each
answer is generated from the whole conversation.
"""

from __future__ import annotations

import io
import queue
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase, TextStreamer

from llava_sea.constants import IMAGE_TOKEN
from llava_sea.conversation import Template
from llava_sea.data.records import Turn
from llava_sea.data.tokenize import stop_ids, tell_beyond, tokenize_prompt
from llava_sea.errors import UserError
from llava_sea.model.generate import generate
from llava_sea.terminal import printable, say


class AnswerStreamer(TextStreamer):
    """Prints an answer word by word as it comes, without the white space around it."""

    def __init__(self, tokenizer: Any, out: TextIO) -> None:
        """Print to `out`; its encoding need not know every character."""
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.out = out
        self.space = ""
        self.begun = False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print what is complete; white space waits until something follows it."""
        text = self.space + text
        shown = text.rstrip()
        self.space = text[len(shown) :]
        shown = shown if self.begun else shown.lstrip()
        self.begun = self.begun or bool(shown)
        shown = printable(shown) if self.out.isatty() else shown
        self.out.write(shown + ("\n" if stream_end else ""))
        self.out.flush()


class StoppedError(Exception):
    """Nobody waits for the rest of an answer; its text is the part that is there."""


class Pieces(io.StringIO):
    """Where an answer goes on its way to another thread, which may stop it."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
        """Pieces; at the end None, or the error that ended the answer."""
        self.stopped = False

    def write(self, text: str) -> int:
        """Pass a piece on; after `stopped` this ends the answer."""
        if self.stopped:
            raise StoppedError(self.getvalue().strip())
        self.queue.put(text)
        return super().write(text)


@dataclass
class Chat:
    """The state of a conversation."""

    model: LlavaForConditionalGeneration
    """In eval mode."""
    tokenizer: PreTrainedTokenizerBase
    template: Template
    pixels: Tensor
    """The image ``(3, H, W)``."""
    max_new_tokens: int = 512
    temperature: float = 0.2
    """0 is greedy."""
    debug: bool = False
    """Whether prompts and ids go to stderr."""
    turns: list[Turn] = field(default_factory=list)

    def ask(self, question: str, out: TextIO | None = None) -> str:
        """Answer a question; it and the answer join the conversation.

        Args:
            question: the next human turn.
            out: where the answer appears while it is made.

        Raises:
            UserError: if the question names a second image or holds a token that the LLM does not
                have, or the conversation has grown too long; the conversation then stays as it was.
        """
        if IMAGE_TOKEN in question:
            raise UserError(f"leave {IMAGE_TOKEN} out: the image is part of the first question")
        # A captioner knows one turn: the image and nothing else.
        before = [] if self.template.caption_only else self.turns
        first = f"{IMAGE_TOKEN}\n{question}"
        turns = [*before, Turn("human", question if before else first)]
        config: Any = self.model.config
        image_tokens, num_rows = int(config.image_seq_length), int(config.text_config.vocab_size)
        ids, mask = tokenize_prompt(turns, self.template, self.tokenizer, image_tokens)
        if beyond := tell_beyond(ids, self.tokenizer, num_rows):
            raise UserError(f"the prompt holds {beyond}; ask it in other words")
        stop = stop_ids(self.template, self.tokenizer)
        try:
            new = generate(
                self.model,
                torch.tensor([ids]),
                torch.tensor([mask]),
                self.pixels[None],
                max_new_tokens=self.max_new_tokens,
                temperature=self.temperature,
                stop_ids=stop,
                streamer=AnswerStreamer(self.tokenizer, out) if out is not None else None,
            )[0].tolist()
        except StoppedError as stopped:
            self.turns = [*turns, Turn("gpt", str(stopped))]
            return str(stopped)
        if self.debug:
            self._show(ids, mask, new)
        decoded = self.tokenizer.decode([i for i in new if i not in stop], skip_special_tokens=True)
        answer = str(decoded).strip()
        self.turns = [*turns, Turn("gpt", answer)]
        return answer

    def stream(self, question: str, lock: threading.Lock) -> Iterator[str]:
        """Yield the answer as far as it is there, as it grows; `ask` runs in a thread under a lock.

        When the generator is closed, the answer ends at its next token and joins the conversation
        as far as it came. Raises as `ask`.
        """
        pieces = Pieces()

        def work() -> None:
            try:
                with lock:
                    if not pieces.stopped:
                        self.ask(question, pieces)
                pieces.queue.put(None)
            except BaseException as error:  # raised where the answer is waited for
                pieces.queue.put(error)

        threading.Thread(target=work, daemon=True).start()
        text = ""
        try:
            while isinstance(piece := pieces.queue.get(), str):
                text += piece
                yield text.rstrip("\n")
        finally:
            pieces.stopped = True
        if piece is not None:
            raise piece

    def _show(self, ids: list[int], mask: list[bool], new: list[int]) -> None:
        places = [place for place, is_image in enumerate(mask) if is_image]
        after = places[-1] + 1 if places else 0
        before = self.tokenizer.decode(ids[: places[0]] if places else [])
        rest = self.tokenizer.decode(ids[after:])
        say(
            f"prompt: {before!r}, {len(places)} patches, {rest!r} ({len(ids)} tokens)\n"
            f"answer: {self.tokenizer.decode(new)!r} ({len(new)} tokens)",
            file=sys.stderr,
        )
