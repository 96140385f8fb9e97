"""Stage 2, packed rows against padded ones: tokens used, time for the same data, losses.

`python scripts/bench/stage2_packing.py [--quick] [--device cuda]`

The mix is synthetic, with the length profile that is assumed of LLaVA-665K (the data itself is not
needed): 40 % short VQA records, 576 image tokens and 50-120 of text; 54 % conversations about an
image, with text of median 240 (lognormal) up to 1,500 tokens in all; 6 % text alone, median 860,
up to 2,048. The lengths that group records are words, as in training: 1.35 tokens each, give or
take. The padded batches have the same records per optimizer step and are grouped by modality and
length in two ways: as LLaVA does (sorted within a step, each rank's part dealt from the longest
down) and as ``--group_by_modality_length`` does here (sorted within 50 steps). Time is forward and
backward of a `Stage2Model` over all micro-batches of all ranks, one after the other, and the same
with each step as long as its slowest rank, which is the wall time on several devices.

Limits: on the CPU a small Llama and lengths divided by 9; with ``--device cuda`` a 7B Llama's and
CLIP-L/336's shapes, random weights, bfloat16, activations recomputed, no optimizer.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from common.rows import Row, run_bench
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from llava_sea.data.collator import Collator
from llava_sea.data.packing import PackedBatchSampler, PackedCollator
from llava_sea.data.sampler import EpochBatchSampler, ModalityBatchSampler
from llava_sea.model.packed import prepare_attention
from llava_sea.model.stage2 import Stage2Model, choose_trainable
from llava_sea.train.train_mem import pick_attention

Batches = list[list[list[int]]]
"""Records by step and rank."""


@dataclass(frozen=True)
class Size:
    """How much of what: steps with images and without, the LLM, what lengths are divided by."""

    ranks: int
    batch: int
    steps: tuple[int, int]
    divisor: int
    hidden: int
    layers: int
    rounds: int

    @property
    def image_tokens(self) -> int:
        """P of an image."""
        return 576 // self.divisor


FULL = Size(ranks=8, batch=16, steps=(14, 1), divisor=9, hidden=512, layers=2, rounds=1)
QUICK = Size(ranks=4, batch=8, steps=(28, 2), divisor=9, hidden=128, layers=2, rounds=1)
CUDA = Size(ranks=8, batch=16, steps=(16, 1), divisor=1, hidden=4096, layers=32, rounds=1)
CUDA_QUICK = Size(ranks=4, batch=8, steps=(8, 1), divisor=1, hidden=4096, layers=4, rounds=1)


def mix(size: Size, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Return the records' lengths in tokens, and in words as grouping takes them."""
    step = size.ranks * size.batch
    with_image, text_only = (count * step for count in size.steps)
    short = round(with_image * 0.40 / 0.94)
    conversation = 60 + rng.lognormal(np.log(180), 0.7, with_image - short)
    alone = 60 + rng.lognormal(np.log(800), 0.8, text_only)
    text = np.concatenate(
        [rng.integers(50, 121, short), conversation.clip(max=1500 - 576), alone.clip(max=2048)]
    )
    words = ((text - 45) / 1.35 * np.exp(rng.normal(0, 0.12, len(text)))).clip(min=3)
    text, words = ((values / size.divisor).clip(min=3).astype(int) for values in (text, words))
    image = np.where(np.arange(len(text)) < with_image, size.image_tokens, 0)
    return (text + image).tolist(), np.where(image > 0, words + image, -words).tolist()


def ours(sampler: Callable[[int], Any], size: Size) -> Batches:
    """Return what the ranks' samplers give."""
    ranks = [list(sampler(rank)) for rank in range(size.ranks)]
    return [[[i for i, _ in batch] for batch in step] for step in zip(*ranks, strict=True)]


def as_llava(lengths: Sequence[int], size: Size, rng: np.random.Generator) -> Batches:
    """Group as LLaVA: of a step's records, longest first, each to the rank with the fewest tokens.

    A rank that is full takes no more. Its measure is words; images count nothing.
    """
    words = np.abs(lengths) - np.where(np.asarray(lengths) > 0, size.image_tokens, 0)
    steps = []
    for members in (
        np.flatnonzero(np.asarray(lengths) > 0),
        np.flatnonzero(np.asarray(lengths) < 0),
    ):
        for step in np.split(rng.permutation(members), len(members) // (size.ranks * size.batch)):
            parts: list[list[int]] = [[] for _ in range(size.ranks)]
            for record in step[np.argsort(-words[step])].tolist():
                open_parts = [part for part in parts if len(part) < size.batch]
                min(open_parts, key=lambda part: words[part].sum()).append(record)
            steps.append(parts)
    return [steps[number] for number in rng.permutation(len(steps))]


def make_model(size: Size, device: str) -> Stage2Model:
    """Build a random LLaVA."""
    torch.manual_seed(0)
    small = size.divisor > 1
    side = round(size.image_tokens**0.5)
    tower = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=1)
    if not small:
        tower = dict(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16
        )
    patch = 4 if small else 14
    head = 64 if small else 128
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**tower, image_size=side * patch, patch_size=patch),
        text_config=LlamaConfig(
            vocab_size=1000 if small else 32000,
            hidden_size=size.hidden,
            intermediate_size=size.hidden * 43 // 16,
            num_hidden_layers=size.layers,
            num_attention_heads=size.hidden // head,
            max_position_embeddings=2048,
        ),
        image_token_index=1,
        image_seq_length=size.image_tokens,
    )
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    attention = pick_attention(dtype) if device == "cuda" else "sdpa"
    config._attn_implementation = {"text_config": attention, "vision_config": "sdpa"}
    torch.set_default_dtype(dtype)
    with torch.device(device):
        llava = LlavaForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    choose_trainable(llava)
    model = Stage2Model(llava).train()
    if device == "cuda":
        model.activation_checkpointing_enable()
    return model


def make_sample(record: int, length: int, has_image: bool, size: Size) -> dict[str, Tensor]:
    """Return a record of a length: random tokens, the last third of the text supervised."""
    rng = torch.Generator().manual_seed(record)
    image = size.image_tokens if has_image else 0
    ids = torch.randint(2, 1000, (length,), generator=rng)
    first = length - max(1, (length - image) // 3)
    place = torch.arange(length)
    mask = (place > 0) & (place <= image)
    sample = {"input_ids": ids, "labels": ids.where(place >= first, -100), "image_mask": mask}
    if has_image:
        side = round(size.image_tokens**0.5) * (4 if size.divisor > 1 else 14)
        sample["pixel_values"] = torch.randn(1, 3, side, side, generator=rng)
    return sample


def measure_time(
    model: Stage2Model,
    variants: dict[str, tuple[Batches, Collator]],
    sample: Callable[[int], dict[str, Tensor]],
    size: Size,
    device: str,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return for each variant the seconds ``(steps, ranks)`` and the share of tokens used.

    Variants take turns micro-batch by micro-batch; of the rounds the best counts.
    """
    seconds = {
        name: np.full((len(steps), size.ranks), np.inf) for name, (steps, _) in variants.items()
    }
    tokens, places = dict.fromkeys(variants, 0), dict.fromkeys(variants, 0)
    for trial in range(-1, size.rounds):  # the first warms up, on one step
        for step in range(sum(size.steps) if trial >= 0 else 1):
            for rank in range(size.ranks):
                for name, (steps, collate) in variants.items():
                    batch = collate([sample(record) for record in steps[step][rank]])
                    if trial == 0:
                        tokens[name] += int(batch["attention_mask"].sum())
                        places[name] += batch["attention_mask"].numel()
                    taken = one_step(model, batch, device)
                    if trial >= 0:
                        seconds[name][step, rank] = min(seconds[name][step, rank], taken)
    return seconds, {name: tokens[name] / places[name] for name in variants}


def one_step(model: Stage2Model, batch: dict[str, Any], device: str) -> float:
    """Return the seconds of a forward and backward pass."""
    moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
    model.zero_grad(set_to_none=False)
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    output = model(**moved)
    (output.lm_loss_sum / output.num_tokens).backward()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


@torch.no_grad()
def loss_difference(
    model: Stage2Model,
    samples: list[dict[str, Tensor]],
    padded: Collator,
    packed: PackedCollator,
    device: str,
) -> float:
    """Return how far a sample's mean loss in a packed row is from its loss alone, at most."""

    def loss(batch: dict[str, Any]) -> float:
        moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        output = model(**moved)
        return float(output.lm_loss_sum / output.num_tokens)

    found = []
    for number, sample in enumerate(samples):
        silent = [{**one, "labels": torch.full_like(one["labels"], -100)} for one in samples]
        together = packed([*silent[:number], sample, *silent[number + 1 :]])
        found.append(abs(loss(together) - loss(padded([sample]))))
    return max(found)


def measure(args: argparse.Namespace) -> list[Row]:
    """Time the three ways and return the rows."""
    small, large = (QUICK, FULL) if args.device == "cpu" else (CUDA_QUICK, CUDA)
    size = small if args.quick else large
    rng = np.random.default_rng(0)
    tokens, words = mix(size, rng)
    options = dict(world_size=size.ranks, seed=1, epoch_of=lambda: 0)

    def shuffled(rank: int) -> PackedBatchSampler:
        plain = EpochBatchSampler(len(words), size.batch, rank=rank, **options)
        return PackedBatchSampler(plain, words, accumulation=1)

    def grouped(rank: int) -> ModalityBatchSampler:
        return ModalityBatchSampler(words, size.batch, accumulation=1, rank=rank, **options)

    def sample(record: int) -> dict[str, Tensor]:
        return make_sample(record, tokens[record], words[record] > 0, size)

    model = make_model(size, args.device)
    side = round(size.image_tokens**0.5) * (4 if size.divisor > 1 else 14)
    padded = Collator(0, (side, side), size.image_tokens)
    packed = PackedCollator(0, (side, side), size.image_tokens)
    attention = model.language_model.config._attn_implementation
    prepare_attention(model.language_model)
    seconds, used = measure_time(
        model,
        {
            "packed": (ours(shuffled, size), packed),
            "llava": (as_llava(words, size, rng), padded),
            "grouped": (ours(grouped, size), padded),
        },
        sample,
        size,
        args.device,
    )
    some = [sample(record) for record in rng.permutation(len(tokens))[: size.batch].tolist()]
    model.eval()
    return make_rows(
        size,
        tokens,
        seconds,
        used,
        loss_difference(model, some, padded, packed, args.device),
        f"{attention}, {len(tokens):,} records of {np.mean(tokens):.0f} tokens, steps of "
        f"{size.ranks} x {size.batch}, Llama {size.layers} x {size.hidden}",
        args.device,
    )


def make_rows(
    size: Size,
    tokens: Sequence[int],
    seconds: dict[str, np.ndarray],
    used: dict[str, float],
    difference: float,
    about: str,
    device: str,
) -> list[Row]:
    """Put the numbers into rows."""
    total = {name: values.sum() for name, values in seconds.items()}
    slowest = {name: values.max(1).sum() for name, values in seconds.items()}
    ways = {
        "llava": "padded, grouped as LLaVA does",
        "grouped": "padded, --group_by_modality_length",
    }
    rows = [Row("tokens used, packed, %", 100 * used["packed"], 97, ">=", about)]
    rows += [Row(f"tokens used, {way}, %", 100 * used[name]) for name, way in ways.items()]
    for name, way in ways.items():
        floor = used[name] / used["packed"]
        note = f"its padding alone allows {floor:.2f}; less comes from attention without a mask"
        rows.append(Row(f"time packed / {way}, x", total["packed"] / total[name], 0.6, note=note))
    for name, way in ways.items():
        ratio = slowest["packed"] / slowest[name]
        note = f"a step lasts as long as the slowest of {size.ranks} ranks"
        rows.append(Row(f"time of steps packed / {way}, x", ratio, 0.6, note=note))
    note = "per-sample means, float32" if device == "cpu" else "per-sample means, bfloat16"
    asked = 1e-5 if device == "cpu" else None
    rows.append(Row("loss in a packed row - loss alone, at most", difference, asked, note=note))
    for name, values in total.items():
        rows.append(Row(f"tokens/s, {ways.get(name, name)}", sum(tokens) / values))
    return rows


if __name__ == "__main__":
    run_bench("stage2_packing", __doc__, measure)
