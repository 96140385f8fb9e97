"""Exact top-n words for every patch (eq. 8): the patch x word scores never exist whole.

Three steps, the same on every device:

1. screen: the product in bfloat16 where the processor has tiles for it, else in float32, block by
   block; of each block only the maxima of buckets of words stay (`mining_screen`);
2. rescore: the n-th largest of a patch's maxima, less the product's rounding error (a proven bound,
   `mining_bounds`), is a score that n words reach. Only buckets that can reach it, too, are looked
   at word by word, in float32 (`mining_rescore`);
3. rank: the few words that float32's own bound cannot tell from the n-th are scored in float64,
   rounded to float32 and ranked, ties by the smaller id.

So ids and scores are those of the exact products, rounded once: they depend neither on the block,
nor on how patches are batched, nor on the device or the precision of the screen. With CUDA, steps
1 and 2 have their own form (`mining_gpu`).

Limit: patches and words are read as float32 (float64 is rounded first) and must be finite.

Shape letters: M patches, Q words, D joint dimension, N kept words.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from llava_sea.alignment.mining_bounds import exact_float32, patch_bounds
from llava_sea.alignment.mining_gpu import gpu_candidates
from llava_sea.alignment.mining_rescore import bucket_candidates, rank_exactly
from llava_sea.alignment.mining_screen import BLOCK, bucket_maxima, has_tiles
from llava_sea.alignment.mining_words import PreparedWords, prepare_words

Precision = Literal["auto", "bfloat16", "float32"]
_FEW = 64
"""Fewer patches than this are not worth rounding the words for."""


@torch.no_grad()
def mine_top_words(
    patches_MD: Tensor,
    words_QD: Tensor | PreparedWords,
    top_n: int,
    *,
    sign: int = 1,
    block: int = BLOCK,
    precision: Precision = "auto",
) -> tuple[Tensor, Tensor]:
    """Find the `top_n` words of highest ``sign * (patch . word)`` for every patch (SEA eq. 8).

    Args:
        patches_MD: patch features in the joint space, ``(M, D)``; finite. Rows of length 1 are
            what it is fast for, any length is exact.
        words_QD: word features in the joint space, ``(Q, D)``, likewise; or what `prepare_words`
            made of them, which saves a pass over the words on every call.
        top_n: words to keep for a patch, at least 1; fewer come back if there are fewer words.
        sign: ``-1`` is the paper's negated cosine, ``+1`` the plain one.
        block: words screened at a time.
        precision: of the screen; the result is the same. "auto" takes bfloat16 on CUDA and on a
            processor with AMX tiles, else float32.

    Returns:
        ids ``(M, N)`` int64 and scores ``(M, N)`` float32, best first, ties by the smaller id.
        Scores that are not positive are returned too: dropping them is the caller's.

    Raises:
        ValueError: if the shapes do not fit, `top_n`, `sign` or `precision` is out of range, or a
            feature is not finite.
    """
    words = words_QD if isinstance(words_QD, PreparedWords) else None
    raw_QD = words_QD.words_QD if isinstance(words_QD, PreparedWords) else words_QD
    _check(patches_MD, raw_QD, top_n, sign, precision)
    num_patches, num_words = patches_MD.shape[0], raw_QD.shape[0]
    if not num_patches or not num_words:
        empty = patches_MD.new_zeros(num_patches, min(top_n, num_words))
        return empty.long(), empty.float()
    signed_MD = patches_MD.float() if sign > 0 else -patches_MD.float()
    rounded = _rounds(precision, signed_MD)
    if words is None or (rounded and words.rounding is None):
        words = prepare_words(raw_QD, rounded)
    bounds = patch_bounds(signed_MD, words, rounded)
    with exact_float32(signed_MD.device):
        if rounded and signed_MD.is_cuda:
            rows_C, ids_C = gpu_candidates(signed_MD, words, bounds, top_n)
        else:
            maxima_MK = bucket_maxima(signed_MD, words, rounded, block)
            rows_C, ids_C = bucket_candidates(signed_MD, words.words_QD, maxima_MK, bounds, top_n)
    return rank_exactly(signed_MD, words.words_QD, rows_C, ids_C, top_n)


def _rounds(precision: Precision, signed_MD: Tensor) -> bool:
    if precision == "auto":
        return signed_MD.is_cuda or (has_tiles() and signed_MD.shape[0] >= _FEW)
    return precision == "bfloat16"


def _check(
    patches_MD: Tensor, words_QD: Tensor, top_n: int, sign: int, precision: Precision
) -> None:
    if patches_MD.ndim != 2 or words_QD.ndim != 2 or patches_MD.shape[1] != words_QD.shape[1]:
        raise ValueError(
            f"patches {tuple(patches_MD.shape)} and words {tuple(words_QD.shape)} must both be "
            "matrices with the same number of columns"
        )
    if top_n < 1 or sign not in (-1, 1):
        raise ValueError(f"top_n must be at least 1 and sign -1 or +1, got {top_n} and {sign}")
    if precision not in ("auto", "bfloat16", "float32"):
        raise ValueError(f"precision must be auto, bfloat16 or float32, got {precision!r}")
