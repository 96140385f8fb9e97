"""Samples into a batch whose shapes and meanings every rank shares.

N, the room for SEA pairs, is the same for every batch, with a mask for those that are real: a rank
with fewer calls the same modules on the same shapes (ZeRO-3 hangs otherwise). Of the pairs that
share a label one stays (3.2, step 3), chosen by the keys the data set drew: nothing random here.
With other `PairOptions` a batch carries its distinct words, as many as there are.

Shape letters: B samples, L tokens, I pictures, P patches of a picture, N pairs, Q words, M tokens,
U distinct words, J words of a patch's top n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llava_sea.alignment.options import PAPER, PairOptions
from llava_sea.alignment.sampling import keep_one_per_label
from llava_sea.constants import IGNORE_INDEX
from llava_sea.data.words import WordTokens


@dataclass(frozen=True)
class Collator:
    """Makes a batch of samples of `llava_sea.data.dataset`; safe in worker processes.

    Attributes:
        pad_id: a valid token id for the right padding.
        resolution: height and width of the pixels, for the zero picture of a text-only batch.
        image_tokens: P, tokens of a picture.
        pairs_per_batch: N, samples of a full batch times windows of a picture; 0 without SEA.
        words: token ids of the label words; None without SEA.
        options: which pairs count and how.
    """

    pad_id: int
    resolution: tuple[int, int]
    image_tokens: int
    pairs_per_batch: int = 0
    words: WordTokens | None = None
    options: PairOptions = PAPER

    def __call__(self, samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the batch.

        Returns:
            ``input_ids``, ``labels`` (padded -100), ``attention_mask``, ``image_mask`` ``(B, L)``;
            ``pixel_values`` ``(I, 3, H, W)``, the pictures in the samples' order, or one zero
            picture that ``image_mask`` does not refer to; with SEA ``sea_patch`` (the picture's
            number in the batch times P, plus the patch), ``sea_label``, ``sea_key`` int64 and
            ``sea_valid`` bool ``(N,)``, ``sea_words`` int64 ``(N, M)`` padded with -1. With options
            that are not the paper's ``sea_words`` is ``(U, M)``, of the words ``sea_word`` int64
            ``(U,)``, ascending; there is no ``sea_key`` where all pairs of a label stay; and what
            needs them has ``sea_top_n`` int64 ``(N, J)``, -1 where none, and with soft targets
            their ``sea_scores`` float32.
        """
        length_B = torch.tensor([len(sample["input_ids"]) for sample in samples])
        position_L = torch.arange(int(length_B.max()))
        pixels = [sample["pixel_values"] for sample in samples if "pixel_values" in sample]
        batch = {
            "input_ids": _pad(samples, "input_ids", self.pad_id),
            "labels": _pad(samples, "labels", IGNORE_INDEX),
            "attention_mask": (position_L < length_B[:, None]).long(),
            "image_mask": _pad(samples, "image_mask", False),
            "pixel_values": torch.cat(pixels or [torch.zeros(1, 3, *self.resolution)]),
        }
        if self.words is not None:
            batch |= self._pairs(samples, self.words)
        return batch

    def _pairs(self, samples: Sequence[dict[str, Tensor]], words: WordTokens) -> dict[str, Tensor]:
        images_before, patches = 0, []
        for sample in samples:
            patches.append(sample["sea_patch"] + images_before * self.image_tokens)
            images_before += "pixel_values" in sample
        label = torch.cat([sample["sea_label"] for sample in samples])
        key = torch.cat([sample["sea_key"] for sample in samples])
        real, room = len(label), self.pairs_per_batch
        assert real <= room, f"{real} pairs do not fit into {room}"
        patch_N, label_N, key_N = (
            torch.nn.functional.pad(values, (0, room - real))
            for values in (torch.cat(patches), label, key)
        )
        real_N = torch.arange(room) < real
        if not self.options.as_in_paper:
            pairs = {"sea_patch": patch_N, "sea_label": label_N, "sea_key": key_N}
            return self._distinct_words(samples, words, pairs, real_N)
        words_NM = torch.from_numpy(words.ids_QM[label_N.numpy()]).long()
        words_NM[~real_N] = -1
        usable_N = real_N & (words_NM[:, 0] >= 0)
        return {
            "sea_patch": patch_N,
            "sea_label": label_N,
            "sea_key": key_N,
            "sea_words": words_NM,
            "sea_valid": keep_one_per_label(label_N, key_N, usable_N),
        }

    def _distinct_words(
        self,
        samples: Sequence[dict[str, Tensor]],
        words: WordTokens,
        pairs: dict[str, Tensor],
        real_N: Tensor,
    ) -> dict[str, Tensor]:
        """Finish a batch whose pairs share words: which count, their top n, the distinct words."""
        dropped_Q = torch.from_numpy(words.dropped_Q)
        batch, label_N = dict(pairs), pairs["sea_label"]
        valid_N = real_N & ~dropped_Q[label_N]
        targets = label_N[valid_N]
        if self.options.positives == "one":
            valid_N = keep_one_per_label(label_N, pairs["sea_key"], valid_N)
        else:
            del batch["sea_key"]
        if self.options.need_top_n:
            top_NJ, scores_NJ = self._top_n(samples)
            # A word without tokens can be no target; the patch's others share its part.
            batch["sea_top_n"] = top_NJ = top_NJ.where(~dropped_Q[top_NJ.clamp(min=0)], -1)
            if self.options.targets == "soft":
                batch["sea_scores"] = scores_NJ = scores_NJ.where(top_NJ >= 0, 0.0)
                valid_N, targets = (scores_NJ > 0).any(1), top_NJ[scores_NJ > 0]
        word_U = targets.unique()
        return batch | {
            "sea_valid": valid_N,
            "sea_word": word_U,
            "sea_words": torch.from_numpy(words.ids_QM[word_U.numpy()]).long(),
        }

    def _top_n(self, samples: Sequence[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
        """Return the pairs' top n words and their scores ``(N, J)``, padded to the room."""
        ids = torch.cat([sample["sea_top_n"] for sample in samples])
        scores = torch.cat([sample["sea_scores"] for sample in samples])
        room = (0, 0, 0, self.pairs_per_batch - len(ids))
        pad = torch.nn.functional.pad
        return pad(ids, room, value=-1), pad(scores, room)


def _pad(samples: Sequence[dict[str, Tensor]], name: str, value: int) -> Tensor:
    rows = [sample[name] for sample in samples]
    return pad_sequence(rows, batch_first=True, padding_value=value)
