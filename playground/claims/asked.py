"""Questions in batches that are made once and answered by any number of models.

What the package does anew for each checkpoint (reading pictures, tokenising, padding) is the same
for all runs with one LLM. Prompts, decoding and texts are `llava_sea.eval.generation`'s; pictures
are rows of a table of features. Greedy answers only.

Shape letters: I pictures, P patches, D the tower's hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llava_sea.model.generate import Prompts, generate, pad_prompts


class Prompt(NamedTuple):
    """A question as the model reads it."""

    ids: list[int]
    image_mask: list[bool]
    picture: int | None
    """The row of its picture's features."""


class Batch(NamedTuple):
    """Prompts that are answered together."""

    places: list[int]
    prompts: Prompts
    pixels_IPD: Tensor | None


def make_batches(
    prompts: Sequence[Prompt], features_IPD: NDArray[np.float32], batch_size: int
) -> list[Batch]:
    """Put prompts of like length together.

    Args:
        prompts: the questions.
        features_IPD: of the pictures that they name.
        batch_size: questions of a batch at most.
    """
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i].ids), i))
    batches = []
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        rows = [row for i in places if (row := prompts[i].picture) is not None]
        pixels_IPD = torch.from_numpy(np.array(features_IPD[rows])) if rows else None
        padded = pad_prompts([(prompts[i].ids, prompts[i].image_mask) for i in places])
        batches.append(Batch(places, padded, pixels_IPD))
    return batches


def answer_batches(
    llava: Any, batches: Sequence[Batch], tokenizer: Any, stop: Sequence[int], max_new_tokens: int
) -> list[str]:
    """Return the greedy answers in the order of the prompts.

    Args:
        llava: the model; its "pixels" are features.
        batches: of all prompts.
        tokenizer: the LLM's.
        stop: tokens that end an answer.
        max_new_tokens: longest answer.
    """
    texts: dict[int, str] = {}
    for batch in batches:
        new_BT = generate(
            llava,
            batch.prompts.input_ids,
            batch.prompts.image_mask,
            batch.pixels_IPD,
            attention_mask=batch.prompts.attention_mask,
            max_new_tokens=max_new_tokens,
            stop_ids=stop,
        )
        for place, row in zip(batch.places, new_BT.tolist(), strict=True):
            ids = [token for token in row if token not in stop]
            texts[place] = str(tokenizer.decode(ids, skip_special_tokens=True)).strip()
    return [texts[place] for place in range(len(texts))]
