"""The product of all patches and words, of which only the maxima of buckets of words are kept.

A block of scores is small enough to be still in the cache when its maxima are taken, and its memory
is used again for the next block. The maxima of all blocks take 1/128 of the scores' memory.

Shape letters: M patches, Q words, D joint dimension, K buckets, B words of a block, R rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llava_sea.alignment.mining_words import PreparedWords

BUCKET = 128
BLOCK = 2048
_ROWS = {"cpu": 2304, "cuda": 8192}
"""Patches of a block of scores."""
_WIDENS = "out_dtype" in (torch.mm.__doc__ or "")
"""torch >= 2.8 can multiply bfloat16 into float32 (CUDA only)."""


def has_tiles() -> bool:
    """Whether this processor multiplies bfloat16 much faster than float32 (AMX)."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported and supported() and torch.backends.mkldnn.is_available())


def bucket_maxima(
    signed_MD: Tensor,
    words: PreparedWords,
    rounded: bool,
    block: int = BLOCK,
    bucket: int = BUCKET,
) -> Tensor:
    """Return the largest score of each bucket of consecutive words, ``(M, K)`` float32.

    Args:
        signed_MD: the patches, float32.
        words: from `prepare_words`.
        rounded: multiply in bfloat16 (adding up in float32), else in float32.
        block: words at a time, rounded down to whole buckets.
        bucket: words of a bucket.
    """
    num_patches, num_words = signed_MD.shape[0], words.words_QD.shape[0]
    block = max(bucket, block - block % bucket)
    dtype = torch.bfloat16 if rounded else torch.float32
    short_MD = signed_MD.to(dtype)
    maxima_MK = signed_MD.new_empty(num_patches, -(-num_words // bucket))
    rows = min(num_patches, _ROWS["cuda" if signed_MD.is_cuda else "cpu"])
    buffer = short_MD.new_empty(0 if signed_MD.is_cuda else rows * min(block, num_words))
    for start in range(0, num_words, block):
        words_BD = _block_of(words, start, block, dtype)
        width, first = words_BD.shape[0], start // bucket
        whole = width // bucket
        for row in range(0, num_patches, rows):
            scores_RB = _product(short_MD[row : row + rows], words_BD, buffer)
            into_RK = maxima_MK[row : row + rows, first : first + -(-width // bucket)]
            if whole:
                scores_RKC = scores_RB[:, : whole * bucket].unflatten(1, (whole, bucket))
                into_RK[:, :whole] = largest(scores_RKC)
            if width % bucket:
                into_RK[:, whole:] = largest(scores_RB[:, None, whole * bucket :])
    return maxima_MK


def _block_of(words: PreparedWords, start: int, block: int, dtype: torch.dtype) -> Tensor:
    if dtype == torch.bfloat16 and words.rounded_QD is not None:
        return words.rounded_QD[start : start + block]
    return words.words_QD[start : start + block].to(dtype)


def _product(part_RD: Tensor, words_BD: Tensor, buffer: Tensor) -> Tensor:
    """Multiply: into the buffer on a CPU; on CUDA with float32 output, also of bfloat16.

    There a bfloat16 output could hide partial sums in bfloat16, which no bound here covers.
    """
    if not part_RD.is_cuda:
        scores_RB = buffer[: part_RD.shape[0] * words_BD.shape[0]].view(-1, words_BD.shape[0])
        return torch.mm(part_RD, words_BD.T, out=scores_RB)
    if part_RD.dtype == torch.bfloat16 and _WIDENS:
        return torch.mm(part_RD, words_BD.T, out_dtype=torch.float32)
    return part_RD.float() @ words_BD.float().T


def largest(scores_RKC: Tensor) -> Tensor:
    """Return the maximum over the last dimension; finite input.

    On a CPU, bfloat16 is compared as int16, which is much faster: the bits of positive numbers have
    the numbers' order, those of negative ones the opposite.
    """
    if scores_RKC.dtype != torch.bfloat16 or scores_RKC.is_cuda:
        return scores_RKC.amax(-1)
    bits_RKC = scores_RKC.view(torch.int16)
    best_RK = bits_RKC.amax(-1)
    if bool((best_RK < 0).any()):  # nothing in the bucket is positive or zero
        best_RK = torch.where(best_RK < 0, bits_RKC.amin(-1), best_RK)
    return best_RK.view(torch.bfloat16)
