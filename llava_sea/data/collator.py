"""Samples into a batch whose shapes and meanings every rank shares.

N, the room for labelled patches, is the same for every batch; patches that are not real take no
part, so every rank makes the same module calls (ZeRO-3 hangs otherwise). Of the patches that share
a label one stays (3.2, step 3), chosen by the keys the data set drew: nothing is random here.

Shape letters: B samples, L tokens, I images, P patches of an image, N labelled patches, Q words, U
distinct words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from llava_sea.alignment.batch import PatchWords
from llava_sea.alignment.sampling import keep_one_per_label
from llava_sea.constants import IGNORE_INDEX
from llava_sea.data.dataset import LazySupervisedDataset
from llava_sea.data.tokenize import padding_id
from llava_sea.data.words import WordTokens


@dataclass(frozen=True)
class Collator:
    """Makes a batch of samples of `llava_sea.data.dataset`; safe in worker processes.

    Attributes:
        pad_id: a valid token id for the right padding.
        resolution: height and width of the pixels, for the zero image of a text-only batch.
        num_patches: P.
        pairs_per_batch: N, samples of a full batch times windows of an image; 0 without SEA.
        words: token ids of the label words; None without SEA.
    """

    pad_id: int
    resolution: tuple[int, int]
    num_patches: int
    pairs_per_batch: int = 0
    words: WordTokens | None = None

    @classmethod
    def of(cls, dataset: LazySupervisedDataset, num_rows: int, **options: Any) -> Collator:
        """Make the collator of a data set for an LLM whose embedding table has `num_rows`."""
        pad_id = padding_id(dataset.tokenizer, num_rows)
        return cls(pad_id, dataset.transform.resolution, dataset.num_patches, **options)

    def __call__(self, samples: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
        """Return the batch.

        Returns:
            ``input_ids``, ``labels`` (padded -100), ``attention_mask``, ``image_mask`` ``(B, L)``;
            ``pixel_values`` ``(I, 3, H, W)``, the images in the samples' order, or one zero
            image that ``image_mask`` does not refer to; with SEA ``sea``, the fields of
            `PatchWords`. A patch's number is its image's number in the batch times P plus its own;
            room that no pair fills takes no part.
        """
        length_B = torch.tensor([len(sample["input_ids"]) for sample in samples])
        position_L = torch.arange(int(length_B.max()))
        pixels = [sample["pixel_values"] for sample in samples if "pixel_values" in sample]
        batch: dict[str, Any] = {
            "input_ids": _pad(samples, "input_ids", self.pad_id),
            "labels": _pad(samples, "labels", IGNORE_INDEX),
            "attention_mask": (position_L < length_B[:, None]).long(),
            "image_mask": _pad(samples, "image_mask", False),
            "pixel_values": torch.cat(pixels or [torch.zeros(1, 3, *self.resolution)]),
        }
        if self.words is not None:
            batch["sea"] = self._patch_words(samples, self.words)._asdict()
        return batch

    def _patch_words(self, samples: Sequence[dict[str, Tensor]], words: WordTokens) -> PatchWords:
        images_before, patches = 0, []
        for sample in samples:
            patches.append(sample["sea_patch"] + images_before * self.num_patches)
            images_before += "pixel_values" in sample
        patch_N = self._fill(torch.cat(patches), 0)
        label_N = self._fill(_join(samples, "sea_label"), -1)
        key_N = self._fill(_join(samples, "sea_key"), 0)
        # A word without tokens can be no target.
        usable_N = (label_N >= 0) & ~torch.from_numpy(words.dropped_Q)[label_N]
        valid_N = keep_one_per_label(label_N, key_N, usable_N)
        word_U = label_N[valid_N].unique()
        words_UT = torch.from_numpy(words.ids_QM[word_U.numpy()]).long()
        return PatchWords(label_N, valid_N, word_U, words_UT, patch_N, key_N)

    def _fill(self, values: Tensor, value: int) -> Tensor:
        """Pad to the room that every batch has."""
        missing = self.pairs_per_batch - len(values)
        assert missing >= 0, f"{len(values)} pairs do not fit into {self.pairs_per_batch}"
        return pad(values, (0, missing), value=value)


def _join(samples: Sequence[dict[str, Tensor]], name: str) -> Tensor:
    return torch.cat([sample[name] for sample in samples])


def _pad(samples: Sequence[dict[str, Tensor]], name: str, value: int) -> Tensor:
    rows = [sample[name] for sample in samples]
    return pad_sequence(rows, batch_first=True, padding_value=value)
