"""Packing (``--pack_sequences``): samples one after the other in a row, instead of padded rows.

A sample in a row counts its positions from 0 and attends to itself alone (the attention is
`llava_sea.model.packed`'s part), and its first token is never predicted, so it learns what it would
learn by itself. A micro-batch is one row without padding.

Shape letters: L tokens of the row, I images.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Sampler

from llava_sea.constants import IGNORE_INDEX
from llava_sea.data.collator import Collator
from llava_sea.data.sampler import EpochBatchSampler


class PackedBatchSampler(Sampler[list[tuple[int, int]]]):
    """Another sampler's steps, cut into micro-batches of like token count (``--pack_sequences``).

    Each optimizer step sees the records it would see unpacked, and a micro-batch has
    `batch_size` records on average: which rank gets which record is what changes, so that no rank
    waits for one whose records are long. Of equal input every rank computes the same division.
    The sign of `lengths` is ignored: those of `ModalityBatchSampler` will do.
    """

    def __init__(self, sampler: EpochBatchSampler, lengths: Sequence[int], *, accumulation: int):
        self.sampler = sampler
        self.batch_size = sampler.batch_size
        self.drop_last = sampler.drop_last
        self.lengths = np.maximum(np.abs(np.asarray(lengths)), 1)
        self.accumulation = accumulation

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        world, rank = self.sampler.world_size, self.sampler.rank
        epoch = self.sampler.epoch_of()
        order = self.sampler.epoch_order(epoch)
        step = self.batch_size * world * self.accumulation
        for start in range(0, len(order), step):
            records = order[start : start + step]
            lengths = self.lengths[records].tolist()
            parts = balance(lengths, len(records) // self.batch_size)
            # Ranks run in step: what they do at a time is alike too.
            parts.sort(key=lambda part: sum(lengths[number] for number in part))
            for part in parts[rank::world]:
                yield [(int(records[number]), epoch) for number in part]


class PackedCollator(Collator):
    """Makes a row of a micro-batch's samples; stage 2's, so without SEA pairs."""

    def __call__(self, samples: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
        """Return the batch.

        Returns:
            ``input_ids``, ``labels`` (-100 at a sample's first token), ``attention_mask`` (all 1),
            ``image_mask`` and ``position_ids`` (from 0 at each sample) ``(1, L)``;
            ``pixel_values`` ``(I, 3, H, W)``, the images in the samples' order, or a zero image
            that ``image_mask`` does not refer to; ``sample_lengths``, a list.
        """
        lengths = [len(sample["input_ids"]) for sample in samples]
        labels = [pad(sample["labels"][1:], (1, 0), value=IGNORE_INDEX) for sample in samples]
        pixels = [sample["pixel_values"] for sample in samples if "pixel_values" in sample]
        input_ids = torch.cat([sample["input_ids"] for sample in samples])[None]
        return {
            "input_ids": input_ids,
            "labels": torch.cat(labels)[None],
            "attention_mask": torch.ones_like(input_ids),
            "image_mask": torch.cat([sample["image_mask"] for sample in samples])[None],
            "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
            "pixel_values": torch.cat(pixels or [torch.zeros(1, 3, *self.resolution)]),
            "sample_lengths": lengths,
        }


def balance(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Split items into parts whose sums are alike: the longest first, each to the smallest part.

    Returns:
        The items' numbers, ascending within a part; equal input gives equal output.
    """
    sums = [(0, part) for part in range(parts)]
    members: list[list[int]] = [[] for _ in range(parts)]
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        total, part = sums[0]
        members[part].append(item)
        heapq.heapreplace(sums, (total + lengths[item], part))
    return [sorted(part) for part in members]
