"""A conversation about one image: turns in, the next answer out.

The prompt is made by training's own tokenisation, so the model reads what it was trained on. Each
answer is generated from the whole conversation.
"""

from __future__ import annotations

import sys
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
        new = generate(
            self.model,
            torch.tensor([ids]),
            torch.tensor([mask]),
            self.pixels[None],
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            stop_ids=stop,
            streamer=AnswerStreamer(self.tokenizer, out) if out else None,
        )[0].tolist()
        if self.debug:
            self._show(ids, mask, new)
        decoded = self.tokenizer.decode([i for i in new if i not in stop], skip_special_tokens=True)
        answer = str(decoded).strip()
        self.turns = [*turns, Turn("gpt", answer)]
        return answer

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
