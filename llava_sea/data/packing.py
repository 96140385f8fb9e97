"""Packing (``--pack_sequences``): samples one after the other in a row, instead of padded rows.

A sample in a row counts its positions from 0 and attends to itself alone (the attention is
`llava_sea.model.packed`'s part), and its first token is never predicted, so it learns what it would
learn by itself. A micro-batch is one row without padding where the attention takes one sample at a
time (FlashAttention, SDPA); where it needs a full mask, whose size grows with the row's square, a
micro-batch is a few rows of like length, of at most ``--model_max_length`` tokens.

Shape letters: R rows, L tokens of the longest row, I images.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
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


@dataclass(frozen=True)
class PackedCollator(Collator):
    """Makes packed rows of a micro-batch's samples; stage 2's, so without SEA pairs.

    Attributes:
        row_limit: the longest row, where a micro-batch is several; None puts all into one.
    """

    row_limit: int | None = None

    def __call__(self, samples: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
        """Return the batch.

        Returns:
            ``input_ids``, ``labels`` (-100 at a sample's first token and at padding),
            ``attention_mask`` (0 at padding), ``image_mask`` and ``position_ids`` (from 0 at each
            sample; padding counts as one) ``(R, L)``; ``pixel_values`` ``(I, 3, H, W)``, the
            images in the rows' order, or a zero image that ``image_mask`` does not refer to;
            for one row ``sample_lengths``, a list of its samples' lengths.
        """
        lengths = [len(sample["input_ids"]) for sample in samples]
        everything = [list(range(len(samples)))]
        rows = everything if self.row_limit is None else fill_rows(lengths, self.row_limit)
        packed = [_join([samples[number] for number in row]) for row in rows]
        batch: dict[str, Any] = {
            name: pad_sequence([row[name] for row in packed], batch_first=True, padding_value=value)
            for name, value in (
                ("input_ids", self.pad_id),
                ("labels", IGNORE_INDEX),
                ("attention_mask", 0),
                ("image_mask", False),
            )
        }
        width = batch["input_ids"].shape[1]
        batch["position_ids"] = torch.stack(
            [
                _positions([*(lengths[n] for n in row), width - sum(lengths[n] for n in row)])
                for row in rows
            ]
        )
        ordered = [samples[number] for row in rows for number in row]
        pixels = [sample["pixel_values"] for sample in ordered if "pixel_values" in sample]
        batch["pixel_values"] = torch.cat(pixels or [torch.zeros(1, 3, *self.resolution)])
        if self.row_limit is None:
            batch["sample_lengths"] = lengths
        return batch


def _join(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    joined = {name: torch.cat([s[name] for s in samples]) for name in ("input_ids", "image_mask")}
    labels = [torch.nn.functional.pad(s["labels"][1:], (1, 0), value=IGNORE_INDEX) for s in samples]
    joined["labels"] = torch.cat(labels)
    joined["attention_mask"] = torch.ones_like(joined["input_ids"])
    return joined


def _positions(lengths: Sequence[int]) -> Tensor:
    return torch.cat([torch.arange(length) for length in lengths])


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


def fill_rows(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Put items into few rows of at most `limit`: alike if they can be, else first-fit decreasing.

    Raises:
        ValueError: if an item is longer than the limit.
    """
    if max(lengths) > limit:
        raise ValueError(f"an item of length {max(lengths)} does not fit into rows of {limit}")
    rows: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        row = next((n for n, left in enumerate(room) if left >= lengths[item]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(limit)
        rows[row].append(item)
        room[row] -= lengths[item]
    alike = balance(lengths, len(rows))
    if max(sum(lengths[item] for item in row) for row in alike) <= limit:
        return alike
    return [sorted(row) for row in rows]
