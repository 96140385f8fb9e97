"""Triton kernels of the miner: the product whose scores never leave the chip, and the rescoring.

`fused_maxima` is a bfloat16 matrix product whose tiles end in the maxima of their buckets of words:
of 64 scores one number is written. Tiles are walked 8 word tiles at a time, so that patches and
words are read from the L2 cache. `fused_rescore` scores the words of chosen buckets in float32
without a gathered copy.

Limits: import needs triton. Tile shapes are tried out once per dimension, on a part of the input.

Shape letters: M patches, Q words, K buckets, C chosen buckets, D joint dimension.
"""

# No `from __future__ import annotations`: Triton reads `tl.constexpr` from the signature.

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from llava_sea.alignment.mining_gpu import GPU_BUCKET
from llava_sea.alignment.mining_words import PreparedWords

_TILES = (
    # patches, words, dimensions, warps, stages
    (128, 256, 64, 8, 3),
    (128, 256, 64, 8, 4),
    (256, 128, 64, 8, 3),
    (128, 128, 64, 8, 4),
    (128, 128, 64, 4, 4),
    (128, 128, 32, 4, 4),
    (64, 128, 64, 4, 4),
)
_TUNED_ON = (8192, 262_144)
_tuned: set[tuple[int, int]] = set()


@triton.jit
def _maxima_kernel(  # type: ignore[no-untyped-def]
    patches_MD,
    words_QD,
    maxima_MK,
    num_patches,
    num_words,
    num_buckets,
    D: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_Q: tl.constexpr,
    TILE_D: tl.constexpr,
    BUCKET: tl.constexpr,
    GROUP: tl.constexpr,
):
    """One tile of scores, reduced to its buckets' maxima."""
    tiles_m = tl.cdiv(num_patches, TILE_M)
    tiles_q = tl.cdiv(num_words, TILE_Q)
    tile = tl.program_id(0)
    first_q = tile // (GROUP * tiles_m) * GROUP
    width = min(tiles_q - first_q, GROUP)
    tile_q = first_q + tile % (GROUP * tiles_m) % width
    tile_m = tile % (GROUP * tiles_m) // width

    # Past the end rows start over: what they give is not stored, or masked below.
    row = (tile_m * TILE_M + tl.arange(0, TILE_M)) % num_patches
    word = tile_q * TILE_Q + tl.arange(0, TILE_Q)
    wrapped = word % num_words
    along = tl.arange(0, TILE_D)
    patch_at = patches_MD + row[:, None].to(tl.int64) * D + along[None, :]
    word_at = words_QD + wrapped[None, :].to(tl.int64) * D + along[:, None]
    scores = tl.zeros((TILE_M, TILE_Q), dtype=tl.float32)
    for start in range(0, D, TILE_D):
        if D % TILE_D == 0:
            patch = tl.load(patch_at)
            other = tl.load(word_at)
        else:
            patch = tl.load(patch_at, mask=along[None, :] < D - start, other=0.0)
            other = tl.load(word_at, mask=along[:, None] < D - start, other=0.0)
        scores = tl.dot(patch, other, scores)
        patch_at += TILE_D
        word_at += TILE_D
    scores = tl.where(word[None, :] < num_words, scores, float("-inf"))
    best = tl.max(tl.reshape(scores, (TILE_M, TILE_Q // BUCKET, BUCKET)), axis=2)
    row = tile_m * TILE_M + tl.arange(0, TILE_M)
    bucket = tile_q * (TILE_Q // BUCKET) + tl.arange(0, TILE_Q // BUCKET)
    into = maxima_MK + row[:, None].to(tl.int64) * num_buckets + bucket[None, :]
    tl.store(into, best, mask=(row[:, None] < num_patches) & (bucket[None, :] < num_buckets))


_autotuned = triton.autotune(
    configs=[
        triton.Config({"TILE_M": m, "TILE_Q": q, "TILE_D": d}, num_warps=warps, num_stages=stages)
        for m, q, d, warps, stages in _TILES
    ],
    key=["D"],
)(_maxima_kernel)


@triton.jit
def _rescore_kernel(  # type: ignore[no-untyped-def]
    patches_MD,
    words_QD,
    buckets_MC,
    scores_MW,
    num_words,
    num_chosen,
    D: tl.constexpr,
    TILE_D: tl.constexpr,
    BUCKET: tl.constexpr,
):
    """The scores of one patch with the words of one bucket."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.program_id(1)
    bucket = tl.load(buckets_MC + row * num_chosen + slot)
    within = tl.arange(0, BUCKET)
    word = bucket * BUCKET + within
    along = tl.arange(0, TILE_D)
    word_at = words_QD + (word % num_words)[:, None].to(tl.int64) * D + along[None, :]
    patch_at = patches_MD + row * D + along
    scores = tl.zeros((BUCKET,), dtype=tl.float32)
    for start in range(0, D, TILE_D):
        patch = tl.load(patch_at, mask=along < D - start, other=0.0)
        other = tl.load(word_at, mask=along[None, :] < D - start, other=0.0).to(tl.float32)
        scores += tl.sum(other * patch[None, :], axis=1)
        patch_at += TILE_D
        word_at += TILE_D
    scores = tl.where(word < num_words, scores, float("-inf"))
    tl.store(scores_MW + (row * num_chosen + slot) * BUCKET + within, scores)


def fused_maxima(
    signed_MD: Tensor, words: PreparedWords, tile: tuple[int, int, int] | None = None
) -> Tensor:
    """Return the maxima of buckets of `GPU_BUCKET` words, ``(M, K)`` float32.

    Args:
        signed_MD: the patches, float32; rounded to bfloat16 here.
        words: from `prepare_words`.
        tile: patches, words and dimensions of a tile; tried out if None.
    """
    short_MD = signed_MD.bfloat16().contiguous()
    short_QD = words.rounded_QD if words.rounded_QD is not None else words.words_QD.bfloat16()
    short_QD = short_QD.contiguous()
    if tile is None:
        key = (signed_MD.device.index or 0, signed_MD.shape[1])
        if key not in _tuned:
            _launch_maxima(short_MD[: _TUNED_ON[0]], short_QD[: _TUNED_ON[1]], None)
            _tuned.add(key)
    return _launch_maxima(short_MD, short_QD, tile)


def _launch_maxima(short_MD: Tensor, short_QD: Tensor, tile: tuple[int, int, int] | None) -> Tensor:
    (num_patches, size), num_words = short_MD.shape, short_QD.shape[0]
    num_buckets = -(-num_words // GPU_BUCKET)
    maxima_MK = torch.empty(num_patches, num_buckets, device=short_MD.device)

    def grid(meta: dict[str, Any]) -> tuple[int]:
        tiles_m = triton.cdiv(num_patches, meta["TILE_M"])
        return (tiles_m * triton.cdiv(num_words, meta["TILE_Q"]),)

    arguments = (short_MD, short_QD, maxima_MK, num_patches, num_words, num_buckets)
    fixed = {"D": size, "BUCKET": GPU_BUCKET, "GROUP": 8}
    if tile is None:
        _autotuned[grid](*arguments, **fixed)
    else:
        shape = dict(zip(("TILE_M", "TILE_Q", "TILE_D"), tile, strict=True))
        _maxima_kernel[grid](*arguments, **fixed, **shape)
    return maxima_MK


def fused_rescore(signed_MD: Tensor, words_QD: Tensor, buckets_MC: Tensor) -> Tensor:
    """Return the float32 scores of the words of chosen buckets, ``(M, C * GPU_BUCKET)``.

    Args:
        signed_MD: the patches, float32.
        words_QD: the words, float32 or narrower.
        buckets_MC: the chosen buckets; int64.
    """
    num_patches, chosen = buckets_MC.shape
    scores_MW = torch.empty(num_patches, chosen * GPU_BUCKET, device=signed_MD.device)
    if num_patches:
        _rescore_kernel[(num_patches, chosen)](
            signed_MD.contiguous(),
            words_QD.contiguous(),
            buckets_MC.contiguous(),
            scores_MW,
            words_QD.shape[0],
            chosen,
            D=signed_MD.shape[1],
            TILE_D=64,
            BUCKET=GPU_BUCKET,
            num_warps=4,
        )
    return scores_MW
