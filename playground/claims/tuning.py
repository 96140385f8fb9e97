"""Stage 2 of a run: the LLM and the projector learn the instruction data, without a trainer.

The package's records, template, tokenisation, order by modality and length, collator, model and
loss; AdamW on float32 weights, warm-up and cosine, clipping as `transformers.Trainer` does them;
the forward pass in bfloat16 where the CPU multiplies it. The order of the data comes from the seed
alone, so the arms of a seed see the same batches. Limits: one process, one micro-batch a step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import get_cosine_schedule_with_warmup

from llava_sea.data.collator import Collator
from llava_sea.data.records import Record
from llava_sea.data.sampler import ModalityBatchSampler
from llava_sea.data.tokenize import tokenize_record
from llava_sea.model.stage2 import Stage2Model
from playground.claims.recipe import ClaimsRecipe


class TuningData:
    """Instruction records as samples; tokens are kept, pictures are rows of features."""

    def __init__(
        self,
        records: Sequence[Record],
        rows: Mapping[str, int],
        features_IPD: NDArray[np.float32],
        **options: Any,
    ) -> None:
        """Keep the parts and tokenise.

        Args:
            records: the instruction data.
            rows: of each picture's features.
            features_IPD: the tower's features of the training pictures.
            options: `tokenize_record`'s arguments after the record, by name.
        """
        self.records, self.rows, self.features_IPD = records, rows, features_IPD
        self._tokens = [_tensors(record, options) for record in records]
        sign = [1 if record.images else -1 for record in records]
        self.lengths = [
            s * len(tokens["input_ids"]) for s, tokens in zip(sign, self._tokens, strict=True)
        ]
        """Tokens of each record; negative for those without a picture, as in the sampler."""

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Tensor]:
        """Return a record's tensors, the features ``(I, P, D)`` under ``pixel_values``."""
        index, _ = item
        sample = dict(self._tokens[index])
        if images := self.records[index].images:
            rows = [self.rows[name] for name in images]
            sample["pixel_values"] = torch.from_numpy(np.array(self.features_IPD[rows]))
        return sample


def _tensors(record: Record, options: Mapping[str, Any]) -> dict[str, Tensor]:
    ids, labels, mask = tokenize_record(record, **options)
    return {
        "input_ids": torch.tensor(ids),
        "labels": torch.tensor(labels),
        "image_mask": torch.tensor(mask),
    }


class TuningCollator:
    """The package's collator; the picture that stands in where there is none is features, too."""

    def __init__(self, collator: Collator, features_PD: NDArray[np.float32]) -> None:
        """Take the shape of a picture's features from one."""
        self._collator = collator
        self._none = torch.zeros(1, *features_PD.shape)

    def __call__(self, samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the batch; see `Collator`."""
        batch = self._collator(samples)
        if not any("pixel_values" in sample for sample in samples):
            batch["pixel_values"] = self._none
        return batch


def tuning_batches(
    data: TuningData, collate: TuningCollator, recipe: ClaimsRecipe, seed: int
) -> Iterator[dict[str, Tensor]]:
    """Yield batches without end, epoch after epoch; the seed alone decides them."""
    for epoch in count():
        sampler = ModalityBatchSampler(
            data.lengths,
            recipe.batch,
            accumulation=1,
            rank=0,
            world_size=1,
            seed=seed,
            epoch_of=lambda epoch=epoch: epoch,  # type: ignore[misc]
        )
        for items in sampler:
            yield collate([data[item] for item in items])


def tuning_steps(
    model: Stage2Model,
    batches: Iterator[dict[str, Tensor]],
    recipe: ClaimsRecipe,
    learning_rate: float,
    dtype: torch.dtype,
) -> Iterator[float]:
    """Take one optimizer step for every value that is asked for.

    Args:
        model: its trainable weights in float32.
        batches: at least as many as the recipe has steps.
        recipe: steps, warm-up, clipping.
        learning_rate: at its highest.
        dtype: of the forward pass.

    Yields:
        The loss of the step's batch, a mean over its supervised tokens.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    warmup = math.ceil(recipe.warmup_ratio * recipe.tuning_steps)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, recipe.tuning_steps)
    for batch in islice(batches, recipe.tuning_steps):
        model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            output = model(**batch)
        loss = output.lm_loss_sum / output.num_tokens
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        yield float(loss.detach())
