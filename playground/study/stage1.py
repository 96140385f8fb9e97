"""Stage 1 of one LLM, arm and seed, and what came out of it.

The loop is the trainer's without a trainer: the package's sampler, data set, collator, model and
losses; AdamW, warm-up and cosine, clipping as `transformers.Trainer` does them. The projector's
start and the order of the data come from the seed alone, so the arms of a seed differ in their
alignment loss and in nothing else. Limits: one process, one micro-batch a step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import torch
from torch import Tensor, nn
from transformers import get_cosine_schedule_with_warmup

from llava_sea.alignment import AlignmentHead
from llava_sea.data.collator import Collator
from llava_sea.data.sampler import EpochBatchSampler
from llava_sea.model.builder import initialise_projector
from llava_sea.model.stage1 import Stage1Model
from llava_sea.train.arguments import SeaArguments
from llava_sea.train.trainer import sea_weight
from playground.study.bench import Bench
from playground.study.cached_data import CachedDataset
from playground.study.recipe import Recipe, Stage1

CURVE = (0.25, 0.5, 0.75, 1.0)
"""Shares of the steps after which the smaller exam is held."""


def train_stage1(
    bench: Bench, sea: SeaArguments, seed: int, warm_start: float = 0.0
) -> tuple[Stage1Model, dict[str, Any]]:
    """Train a projector and measure it on the way.

    Args:
        bench: what is the same for all runs of an LLM.
        sea: alignment flags.
        seed: of the projector's start, the pairs and the data's order.
        warm_start: share of the steps that the alignment loss trains alone before them.

    Returns:
        The model, and ``curve``: `step`, `learned` and `answers` of the smaller exam;
        ``measures`` at the end; ``losses`` of each tenth of the run; ``seconds`` of CPU time.
    """
    stage, _ = bench.recipe.of(bench.llm.name)
    model = make_model(bench, sea, seed)
    dataset, collator = bench.training_data(sea, seed)
    points = {round(share * stage.steps) for share in CURVE}
    curve, losses, started, measuring = [], [], time.process_time(), 0.0
    if steps := round(warm_start * stage.steps):
        batches = draw_batches(dataset, collator, stage.batch, seed)
        warm_up(model, batches, steps, stage.learning_rate, bench.recipe)
    batches = draw_batches(dataset, collator, stage.batch, seed)
    for step, parts in enumerate(train_steps(model, sea, batches, stage, bench.recipe), 1):
        losses.append(parts)
        if step in points:
            before = time.process_time()
            found = bench.on_curve.measure(model)
            curve.append({"step": step} | {key: found[key] for key in ("learned", "answers")})
            measuring += time.process_time() - before
    trained = time.process_time() - started - measuring
    measures = bench.measure(model.eval())
    tenth = max(1, len(losses) // 10)
    return model, {
        "measures": measures,
        "curve": curve,
        "losses": [
            [sum(part) / tenth for part in zip(*losses[start : start + tenth], strict=True)]
            for start in range(0, len(losses) - tenth + 1, tenth)
        ],
        "seconds": {
            "train": trained,
            "measure": time.process_time() - started - trained,
        },
    }


def make_model(bench: Bench, sea: SeaArguments, seed: int) -> Stage1Model:
    """Return the stage-1 model with a fresh projector and, with labels, a fresh head."""
    head = AlignmentHead(sea.sea_log_scale_init or 0.0) if sea.enabled else None
    model = Stage1Model(
        bench.llava, head, sea.sea_negatives, length_weight=sea.sea_length_weight or 0.0
    )
    model.trainable_to_float32()
    initialise_projector(model.projector, seed)
    return model


def warm_up(
    model: Stage1Model,
    batches: Iterator[dict[str, Any]],
    steps: int,
    learning_rate: float,
    recipe: Recipe,
) -> None:
    """Take steps on the alignment loss alone, as ``--sea_align_only`` does; the LLM is not run."""
    updates = Updates(model, [(list(model.parameters()), learning_rate)], steps, recipe)
    model.align_only = True
    for batch in islice(batches, steps):
        model.train()
        updates.take(model(**batch).sea_loss)
    model.align_only = False


def draw_batches(
    dataset: CachedDataset, collator: Collator, size: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield batches without end, epoch after epoch, in the trainer's order."""
    for epoch in count():
        sampler = EpochBatchSampler(
            len(dataset),
            size,
            rank=0,
            world_size=1,
            seed=seed,
            epoch_of=lambda epoch=epoch: epoch,  # type: ignore[misc]
        )
        for items in sampler:
            yield collator([dataset[item] for item in items])


def train_steps(
    model: Stage1Model,
    sea: SeaArguments,
    batches: Iterator[dict[str, Tensor]],
    stage: Stage1,
    recipe: Recipe,
) -> Iterator[tuple[float, ...]]:
    """Take one optimizer step for every value that is asked for.

    Yields:
        The caption loss (eq. 12) and, with SEA, the alignment loss (eq. 11) of the step's batch.
    """
    updates = Updates(model, [(list(model.parameters()), stage.learning_rate)], stage.steps, recipe)
    for step, batch in enumerate(islice(batches, stage.steps)):
        model.train()
        output = model(**batch)
        loss = output.lm_loss_sum / output.num_tokens
        parts: tuple[float, ...] = (float(loss.detach()),)
        if output.sea_loss is not None:
            loss = loss + sea_weight(sea, step / stage.steps) * output.sea_loss  # eq. 13
            parts += (float(output.sea_loss.detach()),)
        updates.take(loss)
        yield parts


class Updates:
    """Fresh AdamW with its schedule: a number of optimizer steps, as the trainer takes them."""

    def __init__(
        self,
        model: nn.Module,
        rates: list[tuple[list[nn.Parameter], float]],
        steps: int,
        recipe: Recipe,
    ) -> None:
        """Take the trainable ones of some parameters, each group at its learning rate."""
        groups = [
            {"params": [p for p in some if p.requires_grad], "lr": rate} for some, rate in rates
        ]
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._max_norm = recipe.max_grad_norm
        self._optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        warmup = math.ceil(recipe.warmup_ratio * steps)
        self._schedule = get_cosine_schedule_with_warmup(self._optimizer, warmup, steps)

    def take(self, loss: Tensor) -> None:
        """Take one step on a loss."""
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, self._max_norm)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad(set_to_none=True)
