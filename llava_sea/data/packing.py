"""Packing (``--pack_sequences``): samples one after the other in a row, instead of padded rows.

A sample in a row counts its positions from 0 and attends to itself alone (the attention is
`llava_sea.model.packed`'s part), and its first token is never predicted, so it learns what it would
learn by itself. A micro-batch is one row without padding where the attention takes one sample at a
time (FlashAttention, SDPA); where it needs a full mask, whose size grows with the row's square, a
micro-batch is a few rows of like length, of at most ``--model_max_length`` tokens.

Shape letters: R rows, L tokens of the longest row, I pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llava_sea.constants import IGNORE_INDEX
from llava_sea.data.balance import fill_rows
from llava_sea.data.collator import Collator


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
            pictures in the rows' order, or a zero picture that ``image_mask`` does not refer to;
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
    """Put samples one after the other into a row without padding."""
    joined = {name: torch.cat([s[name] for s in samples]) for name in ("input_ids", "image_mask")}
    labels = [torch.nn.functional.pad(s["labels"][1:], (1, 0), value=IGNORE_INDEX) for s in samples]
    joined["labels"] = torch.cat(labels)
    joined["attention_mask"] = torch.ones_like(joined["input_ids"])
    return joined


def _positions(lengths: Sequence[int]) -> Tensor:
    return torch.cat([torch.arange(length) for length in lengths])
