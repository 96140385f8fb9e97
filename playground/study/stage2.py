"""Stage 2 of a run: a short instruction tuning with LoRA, then the miniature eight.

The package's records, template, tokenisation, order by modality and length, collator, model,
adapters and loss. The order of the data and the adapters' start come from the seed alone, so the
arms of a seed differ in stage 1's projector and in nothing else. Limits: one process, one
micro-batch a step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import count, islice
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llava_sea.data.records import Record, load_records
from llava_sea.data.sampler import ModalityBatchSampler
from llava_sea.data.tokenize import tokenize_record
from llava_sea.model.builder import build_llava
from llava_sea.model.lora import add_lora
from llava_sea.model.stage2 import Stage2Model
from playground.study.bench import Bench
from playground.study.eight import Eight, prepare_exam
from playground.study.features import read_features, use_features
from playground.study.recipe import Stage2
from playground.study.stage1 import Updates


def train_stage2(bench: Bench, projector: Mapping[str, Tensor], seed: int) -> dict[str, Any]:
    """Tune a fresh LLM with stage 1's projector, and measure it.

    Args:
        bench: what is the same for all runs of an LLM.
        projector: its weights after stage 1, by name.
        seed: of the data's order and the adapters' start.

    Returns:
        ``measures``: the eight, the language kept, the loss of the last tenth; ``seconds``.
    """
    _, stage = bench.recipe.of(bench.llm.name)
    started = time.process_time()
    model = make_model(bench, projector, stage, seed)
    mine = list(model.projector.parameters())
    own = {id(p) for p in mine}
    adapters = [p for p in model.parameters() if id(p) not in own]
    rates = [(adapters, stage.learning_rate), (mine, stage.projector_learning_rate)]
    updates = Updates(model, rates, stage.steps, bench.recipe)
    losses = []
    data = tuning_data(bench)
    for batch in islice(draw_batches(bench, data, stage.batch, seed), stage.steps):
        model.train()
        output = model(**batch)
        loss = output.lm_loss_sum / output.num_tokens
        updates.take(loss)
        losses.append(float(loss.detach()))
    trained = time.process_time() - started
    measures = eight_of(bench).measure(model.eval().llava)
    last = fmean(losses[-max(1, len(losses) // 10) :])
    return {
        "measures": measures | {"tuning_loss": last},
        "seconds": {"train": trained, "measure": time.process_time() - started - trained},
    }


def make_model(
    bench: Bench, projector: Mapping[str, Tensor], stage: Stage2, seed: int
) -> Stage2Model:
    """Return the LLM anew, with adapters, and stage 1's projector."""
    llava = build_llava(str(bench.llm), str(bench.world.clip), dtype=torch.float32)
    use_features(llava)
    llava.model.multi_modal_projector.load_state_dict(projector)
    add_lora(
        llava,
        rank=stage.lora_r,
        alpha=stage.lora_alpha,
        dropout=0.0,
        base=str(bench.llm),
        seed=seed,
    )
    return Stage2Model(llava)


@lru_cache(maxsize=1)
def eight_of(bench: Bench) -> Eight:
    """Return the exams after stage 2, tokenised once for all runs of an LLM."""
    world, recipe = bench.world, bench.recipe
    return Eight(
        [
            prepare_exam(world.folder, world.clip, world.split, seed)
            for seed in recipe.of(bench.llm.name)[1].exams
        ],
        bench.tokenizer,
        bench.template,
        bench.image_tokens,
        batch_size=recipe.answer_batch,
        max_new_tokens=recipe.max_new_tokens,
    )


@lru_cache(maxsize=1)
def tuning_data(bench: Bench) -> TuningData:
    """Return the instruction data, tokenised once for all runs of an LLM."""
    return TuningData(bench)


class TuningData:
    """Instruction records as samples; images are rows of features."""

    def __init__(self, bench: Bench) -> None:
        """Read and tokenise the records."""
        self.features_IPD = read_features(bench.world.features)
        pictures = load_records(bench.world.data)
        self._rows = {str(record.image): row for row, record in enumerate(pictures)}
        self._records = load_records(bench.world.instructions)
        options = bench.reading_of(bench.template)
        self._tokens = [_tensors(record, options) for record in self._records]
        self.lengths = [
            len(tokens["input_ids"]) * (1 if record.images else -1)
            for record, tokens in zip(self._records, self._tokens, strict=True)
        ]
        """Tokens of each record; negative for those without an image, as in the sampler."""

    def sample(self, index: int) -> dict[str, Tensor]:
        """Return a record's tensors, the features ``(I, P, D)`` under ``pixel_values``."""
        rows = [self._rows[name] for name in self._records[index].images]
        pixels = {"pixel_values": torch.from_numpy(np.array(self.features_IPD[rows]))}
        return self._tokens[index] | (pixels if rows else {})


def _tensors(record: Record, options: Sequence[Any]) -> dict[str, Tensor]:
    ids, labels, mask = tokenize_record(record, *options)
    return {
        "input_ids": torch.tensor(ids),
        "labels": torch.tensor(labels),
        "image_mask": torch.tensor(mask),
    }


def draw_batches(
    bench: Bench, data: TuningData, size: int, seed: int
) -> Iterator[dict[str, Tensor]]:
    """Yield batches without end, epoch after epoch; the seed alone decides them."""
    collate = bench.collator()
    none = torch.zeros(1, *data.features_IPD.shape[1:])
    for epoch in count():
        sampler = ModalityBatchSampler(
            data.lengths,
            size,
            accumulation=1,
            rank=0,
            world_size=1,
            seed=seed,
            epoch_of=lambda epoch=epoch: epoch,  # type: ignore[misc]
        )
        for items in sampler:
            samples = [data.sample(index) for index, _ in items]
            batch = collate(samples)
            if not any("pixel_values" in sample for sample in samples):
                batch["pixel_values"] = none  # the image that stands in is features, too
            yield batch
