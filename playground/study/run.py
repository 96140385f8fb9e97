"""One run: stage 1 of one LLM, arm, length and seed, and what came out of it.

The loop is the trainer's without a trainer: the package's sampler, data set, collator, model and
losses; AdamW, warm-up and cosine, clipping as `transformers.Trainer` does them. The projector's
start and the order of the data come from the seed alone, so the arms of a seed differ in their
alignment loss and in nothing else. A warm start before it is that of `--sea_align_only`, with
this loop's optimizer. Limits: one process, one micro-batch a step.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import torch
from torch import Tensor, nn
from transformers import get_cosine_schedule_with_warmup

from llava_sea.alignment import AlignmentHead, PatchWords
from llava_sea.data.collator import Collator
from llava_sea.data.sampler import EpochBatchSampler
from llava_sea.model.builder import initialise_projector
from llava_sea.model.stage1 import Stage1Model
from llava_sea.train.arguments import SeaArguments
from llava_sea.train.trainer import sea_weight
from playground.study.bench import Bench, Mixed
from playground.study.cached_data import CachedDataset
from playground.study.recipe import Recipe


def train_run(
    bench: Bench, sea: SeaArguments, steps: int, seed: int, num_warm: int = 0
) -> dict[str, Any]:
    """Train a projector and measure it on the way.

    Args:
        bench: the LLM and the data.
        sea: the alignment flags; without labels it is plain LLaVA.
        steps: length of the run.
        seed: of the projector's start, the order of the data and the draws of pairs.
        num_warm: steps of the alignment loss alone before the run; the curve begins after them.

    Returns:
        ``curve``: measures after some of the steps; ``final``: measures on the larger held-out
        set; ``final_answers``: by kind of question; ``losses``: each step's caption loss and
        alignment loss; ``temperature``; ``cpu_seconds`` of training (and the warm start) and
        measuring.
    """
    recipe = bench.recipe
    dataset, collator = bench.training_data(sea, seed)
    on_curve, at_end = bench.measures()
    curve: list[dict[str, float]] = []
    losses: list[tuple[float, ...]] = []
    started = time.process_time()
    model = warm_start(bench, sea, num_warm, seed) if num_warm else make_model(bench, sea, seed)
    clock = {"train": time.process_time() - started, "measure": 0.0}

    def measure_curve(step: int) -> None:
        started = time.process_time()
        curve.append({"step": step, **on_curve.measure(model)[0]})
        clock["measure"] += time.process_time() - started

    points = set(recipe.curve_steps(steps))
    measure_curve(0)
    taking = train_steps(model, sea, draw_batches(dataset, collator, recipe, seed), steps, recipe)
    started = time.process_time()
    for step, parts in enumerate(taking, 1):
        losses.append(tuple(round(part, 4) for part in parts))
        clock["train"] += time.process_time() - started
        if step in points:
            measure_curve(step)
        started = time.process_time()
    started = time.process_time()
    final, final_answers = at_end.measure(model)
    clock["measure"] += time.process_time() - started
    return {
        "curve": curve,
        "final": final,
        "final_answers": final_answers,
        "losses": losses,
        "temperature": model.stage1.temperature() if model.stage1.head is not None else None,
        "cpu_seconds": clock,
    }


def make_model(bench: Bench, sea: SeaArguments, seed: int) -> Mixed:
    """Return the stage-1 model with a fresh projector and, with labels, a fresh head."""
    head = AlignmentHead(sea.sea_log_scale_init or 0.0) if sea.enabled else None
    stage1 = Stage1Model(bench.llava, head, sea.sea_negatives)
    stage1.trainable_to_float32()
    initialise_projector(stage1.projector, seed)
    return Mixed(stage1, bench.dtype)


def warm_start(bench: Bench, sea: SeaArguments, steps: int, seed: int) -> Mixed:
    """Return the stage-1 model after steps of the alignment loss alone; the LLM does not run.

    The order of the data is that of stage 1, which begins anew. Stage 1 goes on from the projector
    and the temperature, with an optimizer of its own.

    Args:
        bench: the LLM and the data.
        sea: stage 1's alignment flags, with labels; their lambda plays no part, and where it is 0
            the model comes back without a head.
        steps: length of the warm start.
        seed: of the projector's start, the order of the data and the draws of pairs.
    """
    aligning = dataclasses.replace(sea, sea_weight=1.0)
    assert aligning.enabled, "a warm start needs labels"
    model = make_model(bench, aligning, seed)
    batches = draw_batches(*bench.training_data(aligning, seed), bench.recipe, seed)
    updates = Updates(model, steps, bench.recipe)
    model.train()
    for batch in islice(batches, steps):
        with model.autocast():
            visual_IPD = model.stage1.project(batch["pixel_values"])
            loss, _ = model.stage1.align(visual_IPD, PatchWords(**batch["sea"]))
        updates.take(loss)
    if not sea.enabled:
        model.stage1.head = None
    return model


def draw_batches(
    dataset: CachedDataset, collator: Collator, recipe: Recipe, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield batches without end, epoch after epoch, in the trainer's order."""
    for epoch in count():
        sampler = EpochBatchSampler(
            len(dataset),
            recipe.batch,
            rank=0,
            world_size=1,
            seed=seed,
            epoch_of=lambda epoch=epoch: epoch,  # type: ignore[misc]
        )
        for items in sampler:
            yield collator([dataset[item] for item in items])


def train_steps(
    model: Mixed,
    sea: SeaArguments,
    batches: Iterator[dict[str, Tensor]],
    steps: int,
    recipe: Recipe,
) -> Iterator[tuple[float, ...]]:
    """Take one optimizer step for every value that is asked for.

    Yields:
        The caption loss (eq. 12) and, with SEA, the alignment loss (eq. 11) of the step's batch.
    """
    updates = Updates(model, steps, recipe)
    model.train()
    for step, batch in enumerate(islice(batches, steps)):
        output = model(**batch)
        loss = output.lm_loss_sum / output.num_tokens
        parts: tuple[float, ...] = (float(loss.detach()),)
        if output.sea_loss is not None:
            loss = loss + sea_weight(sea, step / steps) * output.sea_loss  # eq. 13
            parts += (float(output.sea_loss.detach()),)
        updates.take(loss)
        yield parts


class Updates:
    """Fresh AdamW with its schedule: a number of optimizer steps, as the trainer takes them."""

    def __init__(self, model: nn.Module, steps: int, recipe: Recipe) -> None:
        """Take the parameters of the model that are trained."""
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._max_norm = recipe.max_grad_norm
        rate, warmup = recipe.learning_rate, math.ceil(recipe.warmup_ratio * steps)
        self._optimizer = torch.optim.AdamW(self._parameters, lr=rate, weight_decay=0.0)
        self._schedule = get_cosine_schedule_with_warmup(self._optimizer, warmup, steps)

    def take(self, loss: Tensor) -> None:
        """Take one step on a loss."""
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, self._max_norm)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad(set_to_none=True)
