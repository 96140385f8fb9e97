"""Batches of random data with a recipe's own shapes, made by training's own collator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from llava_sea.alignment.sampling import draw_patches
from llava_sea.constants import IGNORE_INDEX
from llava_sea.data.collator import Collator
from llava_sea.data.dataset import LazySupervisedDataset
from llava_sea.data.words import WordTokens

NUM_WORDS, WORD_TOKENS = 20_000, 3


class Sizes(NamedTuple):
    """A record's numbers of tokens, of those with a label, and of images."""

    length: int
    supervised: int
    images: int


def random_words(rows: int, seed: int = 0) -> WordTokens:
    """Return a word list's token ids."""
    ids_QM = np.random.default_rng(seed).integers(0, rows, (NUM_WORDS, WORD_TOKENS))
    return WordTokens(ids_QM.astype(np.int32), np.zeros(NUM_WORDS, bool))


def random_sample(
    rng: np.random.Generator,
    sizes: Sizes,
    collator: Collator,
    rows: int,
    grid: tuple[int, int],
    window: int,
    prefix: int = 0,
) -> dict[str, Tensor]:
    """Return a record as `LazySupervisedDataset` does.

    `rows` are the embedding table's, `prefix` the tokens of an image that are no patches.
    """
    of_images = sizes.images * (collator.num_patches + prefix)
    length = max(sizes.length, 1 + of_images + sizes.supervised)
    ids = torch.from_numpy(rng.integers(0, rows, length))
    place = torch.arange(length)
    image_mask = (place >= 1) & (place <= of_images)
    labels = torch.where(place >= length - sizes.supervised, ids, IGNORE_INDEX)
    sample = {"input_ids": ids, "labels": labels, "image_mask": image_mask}
    if sizes.images:
        drawn = rng.standard_normal((sizes.images, 3, *collator.resolution), dtype=np.float32)
        sample["pixel_values"] = torch.from_numpy(drawn)
    if collator.words is not None:
        patch_K = draw_patches(np.ones(grid[0] * grid[1], bool), grid, window, rng)
        # Word frequencies have a long tail: a few words label many patches.
        label_K = (NUM_WORDS ** rng.random(len(patch_K))).astype(np.int64) - 1
        sample["sea_patch"] = torch.from_numpy(patch_K)
        sample["sea_label"] = torch.from_numpy(label_K)
        sample["sea_key"] = torch.from_numpy(rng.integers(0, 2**62, len(patch_K)))
    return sample


class Blanks(LazySupervisedDataset):
    """So many records of nothing: what they hold the collator below makes up."""

    def __init__(self, count: int, length: int) -> None:
        self.count, self.length = count, length

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, item: Any) -> dict[str, Tensor]:
        """Return nothing."""
        return {}

    @property
    def modality_lengths(self) -> list[int]:
        """Return the length of every record."""
        return [self.length] * self.count


class MadeUp:
    """Collates random records: those of `plan` one batch after the other, then the last again.

    A plan's entry is the records' sizes and whether the batch has SEA's pairs.
    """

    def __init__(
        self,
        collator: Collator,
        plan: Sequence[tuple[Sizes, bool]],
        rows: int,
        grid: tuple[int, int],
        window: int,
        prefix: int = 0,
    ) -> None:
        self.collator, self.plan, self.made = collator, plan, 0
        self.shape = rows, grid, window, prefix

    def __call__(self, samples: Sequence[Any]) -> dict[str, Any]:
        """Return a batch of as many records."""
        sizes, with_pairs = self.plan[min(self.made, len(self.plan) - 1)]
        rng = np.random.default_rng(self.made)
        self.made += 1
        drawn = [random_sample(rng, sizes, self.collator, *self.shape) for _ in samples]
        batch = self.collator(drawn)
        return batch if with_pairs else {k: v for k, v in batch.items() if k != "sea"}
