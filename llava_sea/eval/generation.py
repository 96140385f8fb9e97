"""Questions to answers in batches, each answer as it would be alone.

Prompts of about the same length go together, so that little is padding. Images are read by threads
while the model answers. Greedy texts do not depend on the batch, up to rounding: in float32 no text
differs in practice; in 16 bits a tie of two words may fall otherwise.

Shape letters: I images.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase

from llava_sea.conversation import Template
from llava_sea.data.images import ImageTransform, decode_image, resolve_image_path
from llava_sea.data.records import Turn
from llava_sea.data.tokenize import stop_ids, tell_beyond, tokenize_prompt
from llava_sea.errors import UserError
from llava_sea.eval.questions import Question
from llava_sea.files import IMAGE_BYTES, read_file
from llava_sea.model.generate import generate, pad_prompts

WINDOW = 32
"""Batches among whose questions lengths are sorted: more would pad less and read disks worse."""

AHEAD = 2
"""Batches whose images are read while the model answers."""

THREADS = 4


@dataclass(frozen=True)
class Decoding:
    """How answers are decoded: temperature 0 is greedy, `top_p` goes with a higher one."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float | None = None
    num_beams: int = 1


@dataclass(frozen=True)
class Answerer:
    """A model in eval mode on its device, with all that turns a question into its input."""

    model: LlavaForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    transform: ImageTransform
    template: Template
    image_folder: Path
    decoding: Decoding
    batch_size: int = 16

    def answers(self, questions: Sequence[Question]) -> Iterator[list[tuple[Question, str]]]:
        """Yield a batch of questions with their answers at a time, not in order.

        Raises:
            UserError: naming the question, before the first answer if a prompt leaves no room for
                one in the LLM's context or holds a token that the LLM lacks; in its turn if its
                image cannot be read; and if a batch does not fit into the GPU's memory.
        """
        text_config: Any = self.model.config.text_config
        context = int(text_config.max_position_embeddings)
        lengths = [self._length(question, context) for question in questions]
        plan = plan_batches(lengths, self.batch_size, context - self.decoding.max_new_tokens)
        batches = [[questions[i] for i in places] for places in plan]
        for batch, pixels_ICHW in self._with_images(batches):
            yield list(zip(batch, self._answer(batch, pixels_ICHW), strict=True))

    def _answer(self, batch: Sequence[Question], pixels_ICHW: Tensor | None) -> list[str]:
        prompts = pad_prompts([self._tokenize(question) for question in batch])
        stop = stop_ids(self.template, self.tokenizer)
        if self.decoding.temperature > 0:
            torch.manual_seed(zlib.crc32(repr(batch[0].key).encode()))
        try:
            new_BT = generate(
                self.model,
                prompts.input_ids,
                prompts.image_mask,
                pixels_ICHW,
                attention_mask=prompts.attention_mask,
                stop_ids=stop,
                **asdict(self.decoding),
            )
        except torch.cuda.OutOfMemoryError:
            raise UserError(
                f"--batch-size {self.batch_size}: {len(batch)} prompts of "
                f"{prompts.input_ids.shape[1]} tokens do not fit into the GPU's memory; give a "
                "smaller one. The answers so far are kept"
            ) from None
        texts = []
        for row in new_BT.tolist():
            ids = [token for token in row if token not in stop]
            texts.append(str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip())
        return texts

    def _with_images(
        self, batches: Sequence[list[Question]]
    ) -> Iterator[tuple[list[Question], Tensor | None]]:
        """Yield the batches with their images ``(I, 3, H, W)``, some read ahead."""
        with ThreadPoolExecutor(THREADS) as pool:
            reading: deque[list[Future[Tensor]]] = deque()
            try:
                for place, batch in enumerate(batches):
                    for ahead in batches[place + len(reading) : place + AHEAD + 1]:
                        shown = [question for question in ahead if question.image is not None]
                        reading.append([pool.submit(self._pixels, q) for q in shown])
                    pixels = [future.result() for future in reading.popleft()]
                    yield batch, torch.stack(pixels) if pixels else None
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _pixels(self, question: Question) -> Tensor:
        data, where = question.image, question.name
        if isinstance(data, str):
            path = resolve_image_path(self.image_folder, data, question.question_id)
            where = f"{where}: {path}"
            try:
                data = read_file(path, IMAGE_BYTES)
            except UserError as error:
                raise UserError(f"{question.name}: {error}") from None
        assert data is not None
        way_out = "replace it, and the same command resumes"
        return self.transform(decode_image(data, where, way_out))

    def _tokenize(self, question: Question) -> tuple[list[int], list[bool]]:
        turns, images = [Turn("human", question.first_turn)], int(question.image is not None)
        config: Any = self.model.config
        length = int(config.image_seq_length)
        try:
            return tokenize_prompt(turns, self.template, self.tokenizer, length, images)
        except UserError as error:
            raise UserError(f"{question.name}: {error}") from None

    def _length(self, question: Question, context: int) -> int:
        ids = self._tokenize(question)[0]
        text_config: Any = self.model.config.text_config
        if beyond := tell_beyond(ids, self.tokenizer, int(text_config.vocab_size)):
            raise UserError(f"{question.name}: the prompt holds {beyond}; change its text")
        if len(ids) >= context:
            raise UserError(
                f"{question.name}: the prompt is {len(ids)} tokens long, its image's among them, "
                f"and the LLM reads {context}; shorten its text"
            )
        return len(ids)


def plan_batches(lengths: Sequence[int], batch_size: int, roomy: int) -> Iterator[list[int]]:
    """Yield the positions of prompts that go together, the longest of a window first.

    The context has room for the longest answer up to `roomy` tokens. The answer to a longer prompt
    is cut short: only prompts as long as it is may stand beside it, or it would cut theirs.
    """
    size = WINDOW * batch_size
    for start in range(0, len(lengths), size):
        window = range(start, min(start + size, len(lengths)))
        batch: list[int] = []
        for place in sorted(window, key=lambda i: (-lengths[i], i)):
            if batch:
                longest = lengths[batch[0]]
                apart = longest > roomy and lengths[place] != longest
                if apart or len(batch) == batch_size:
                    yield batch
                    batch = []
            batch.append(place)
        yield batch


def check_images(questions: Sequence[Question], folder: str | None) -> None:
    """Check that every image file is there."""
    named = [question for question in questions if isinstance(question.image, str)]
    if named and not folder:
        raise UserError(
            f"{named[0].name} has the image {named[0].image!r}: give its folder with --image-folder"
        )
    lacking = []
    for question in named:
        path = resolve_image_path(str(folder), str(question.image), question.question_id)
        if not path.is_file():
            lacking.append(f"{question.name}: {path}: no such image")
    if lacking:
        more = f" (and {len(lacking) - 3} more)" if len(lacking) > 3 else ""
        raise UserError(f"{'; '.join(lacking[:3])}{more}. Is --image-folder {folder} right?")
