"""How close visual tokens are to words: nearest word, modality gap, TACS (eq. 4, 5, 14).

Pure functions of tensors, in float32 whatever comes in. Words are looked at in blocks, so a word
list of millions costs memory for one block; `NearestWords.better` joins blocks, also those of
several processes.

Shape letters: N visual tokens, P those of one image, Q words, T caption tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class NearestWords(NamedTuple):
    """For every visual token the nearest word; all of shape ``(N,)``."""

    ids_N: Tensor
    """The word with the largest cosine (eq. 4), int64."""
    cosine_N: Tensor
    """That cosine, float32."""
    distance_N: Tensor
    """The smallest Euclidean distance to any word (eq. 5), float32; often another word's."""

    @property
    def unit_distance_N(self) -> Tensor:
        """That distance between vectors scaled to length 1: eq. 5 without the lengths, float32."""
        return (2 - 2 * self.cosine_N).clamp(min=0).sqrt()

    def better(self, other: NearestWords) -> NearestWords:
        """Join with the result over later words; a tie stays with `self`."""
        closer_N = other.cosine_N > self.cosine_N
        return NearestWords(
            torch.where(closer_N, other.ids_N, self.ids_N),
            torch.where(closer_N, other.cosine_N, self.cosine_N),
            torch.minimum(other.distance_N, self.distance_N),
        )


def nearest_words(
    visual_ND: Tensor, words: Tensor | Iterable[Tensor], *, block: int = 4096
) -> NearestWords:
    """Find every visual token's nearest word (SEA eq. 4) and its distance to the words (eq. 5).

    Args:
        visual_ND: projected visual tokens.
        words: word embeddings ``(Q, D)``, or blocks of them that follow each other.
        block: words looked at together when `words` is one tensor.

    Returns:
        The nearest words; the modality gap of eq. 5 is ``distance_N.mean()``. It grows with the
        tokens' lengths; ``unit_distance_N.mean()`` does not.

    Raises:
        ValueError: if there is no word.
    """
    visual_ND = visual_ND.float()
    unit_ND = torch.nn.functional.normalize(visual_ND, dim=-1)
    blocks = words.split(block) if isinstance(words, Tensor) else words
    best: NearestWords | None = None
    first_id = 0
    for words_QD in blocks:
        if not len(words_QD):
            continue
        words_QD = words_QD.float()
        cosine_NQ = unit_ND @ torch.nn.functional.normalize(words_QD, dim=-1).T
        cosine_N, ids_N = cosine_NQ.max(dim=1)
        # cdist finds the nearest by a matrix product, which rounds: measure that pair by itself.
        closest_N = torch.cdist(visual_ND, words_QD).argmin(1)
        distance_N = (visual_ND - words_QD[closest_N]).norm(dim=-1)
        found = NearestWords(ids_N + first_id, cosine_N, distance_N)
        best = found if best is None else best.better(found)
        first_id += len(words_QD)
    if best is None:
        raise ValueError("the nearest word needs at least one word")
    return best


def tacs(visual_PD: Tensor, caption_TD: Tensor, *, k: int = 10) -> Tensor:
    """Token alignment consistency score of one image and its caption (SEA eq. 14, 17).

    For each projected visual token the largest cosine to the input embedding of any caption token
    (without BOS); the mean of the `k` largest, or of all where the image has fewer: a scalar in
    [-1, 1].

    Raises:
        ValueError: if there is no visual token or no caption token.
    """
    if not len(visual_PD) or not len(caption_TD):
        raise ValueError(
            f"TACS needs visual tokens and caption tokens, got {len(visual_PD)} and "
            f"{len(caption_TD)}"
        )
    visual_PD = torch.nn.functional.normalize(visual_PD.float(), dim=-1)
    caption_TD = torch.nn.functional.normalize(caption_TD.float(), dim=-1)
    best_P = (visual_PD @ caption_TD.T).amax(1)
    return best_P.topk(min(k, len(best_P))).values.mean()
