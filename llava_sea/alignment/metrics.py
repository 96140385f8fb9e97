"""How close visual tokens are to words: nearest word, modality gap, TACS (eq. 4, 5, 14), MIR.

Pure functions of tensors, in float32 whatever comes in. Words are looked at in blocks, so a word
list of millions costs memory for one block; `NearestWords.better` joins blocks, also those of
several processes.

Shape letters: N visual tokens, P those of one image, Q words, T text tokens, D hidden size.
"""

from __future__ import annotations

import math
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


def modality_integration_rate(layers: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Modality Integration Rate (MIR, arXiv 2410.07167): smaller is better integrated.

    The logarithm (base 10) of the sum over the LLM's layers of the Fréchet distance between visual
    and text tokens, both scaled so that text tokens have a mean length of 1, each token whose
    length is over 3 standard deviations from the median one replaced by the median token.

    Args:
        layers: of each layer's output the visual tokens ``(N, D)`` and the text tokens ``(T, D)``
            of some images; the embedding layer is left out.

    Raises:
        ValueError: if there is no layer, or fewer than two tokens of a kind.
    """
    distances = [_frechet_of_modalities(visual_ND, text_TD) for visual_ND, text_TD in layers]
    if not distances:
        raise ValueError("MIR needs at least one layer")
    return math.log10(sum(distances))


def _frechet_of_modalities(visual_ND: Tensor, text_TD: Tensor) -> float:
    if len(visual_ND) < 2 or len(text_TD) < 2:
        raise ValueError(
            f"MIR needs two tokens of each kind, got {len(visual_ND)} visual and {len(text_TD)} "
            "text tokens"
        )
    visual_ND, text_TD = visual_ND.double(), text_TD.double()
    scale = 1 / text_TD.norm(dim=-1).mean()
    visual_ND, text_TD = _without_outliers(scale * visual_ND), _without_outliers(scale * text_TD)
    visual_DD, text_DD = torch.cov(visual_ND.T), torch.cov(text_TD.T)
    # The trace of the root of a product is the sum of singular values of the roots' product.
    shared = torch.linalg.svdvals(_root(visual_DD) @ _root(text_DD)).sum()
    between = (visual_ND.mean(0) - text_TD.mean(0)).square().sum()
    return float(between + visual_DD.trace() + text_DD.trace() - 2 * shared)


def _without_outliers(tokens_ND: Tensor) -> Tensor:
    length_N = tokens_ND.norm(dim=-1)
    far_N = (length_N - length_N.median()).abs() > 3 * length_N.std()
    return torch.where(far_N[:, None], tokens_ND.median(0).values, tokens_ND)


def _root(cov_DD: Tensor) -> Tensor:
    values_D, vectors_DD = torch.linalg.eigh(cov_DD)
    return (vectors_DD * values_D.clamp(min=0).sqrt()) @ vectors_DD.T
