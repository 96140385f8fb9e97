"""Exact top-n words for every patch (eq. 8): the patch x word scores never exist whole.

Three steps, the same on every device, in plain torch:

1. Screen. The product in bfloat16 where the processor has units for it, else in float32, block by
   block; of each block only the maxima of buckets of 128 words stay.
2. Rescore. The n-th largest of a patch's maxima, less the product's rounding error (a proven
   bound, `mining_bounds`), is a score that n words reach. Only the buckets that can reach it too
   are scored word by word, in float32.
3. Rank. The few words that float32's own bound cannot tell from the n-th are scored in float64,
   rounded to float32 and ranked, ties by the smaller id.

So ids and scores are those of the exact products, rounded once: they do not depend on the block, on
how patches are batched, on the device or on the precision of the screen.

Limit: patches and words are read as float32 (float64 is rounded first) and must be finite.

Shape letters: M patches, Q words, D joint dimension, N kept words, K buckets, B words of a block,
R patches of a part, C candidates (pairs of a patch and a word), G buckets scored together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from llava_sea.alignment.mining_bounds import (
    PatchBounds,
    PreparedWords,
    by_device,
    exact_float32,
    patch_bounds,
    prepare_words,
    screen_cuts,
)

Precision = Literal["auto", "bfloat16", "float32"]

BUCKET = 128
BLOCK = {"cpu": 2048, "cuda": 16_384}
"""Words of a block of scores, which is still in the cache when its maxima are taken."""
_ROWS = {"cpu": 2304, "cuda": 8192}
"""Patches of a block of scores."""
_FEW = 64
"""Fewer patches than this are not worth rounding the words for."""
_RESCORED = {"cpu": 256, "cuda": 1 << 18}
"""Patches, counted once a bucket, that are scored against their buckets in one call."""
_GROUP = 1 << 25
"""Scores that a group of patches may have rescored: a bound for word lists of equal words."""
_RANKED = {"cpu": 256, "cuda": 1 << 18}
"""Pairs scored in float64 at a time."""


@torch.no_grad()
def mine_top_words(
    patches_MD: Tensor,
    words_QD: Tensor | PreparedWords,
    top_n: int,
    *,
    sign: int = 1,
    block: int | None = None,
    precision: Precision = "auto",
) -> tuple[Tensor, Tensor]:
    """Find the `top_n` words of highest ``sign * (patch . word)`` for every patch (SEA eq. 8).

    Args:
        patches_MD: patch features in the joint space; finite. Rows of length 1 are the fast case,
            any length is exact.
        words_QD: word features in the joint space, likewise; or the result of `prepare_words`,
            which saves a pass over the words on every call.
        top_n: words to keep for a patch, at least 1; fewer come back if there are fewer words.
        sign: ``-1`` is the paper's negated cosine, ``+1`` the plain one.
        block: words screened at a time.
        precision: of the screen; the result is the same. "auto" takes bfloat16 on CUDA and on a
            processor with AMX tiles, else float32.

    Returns:
        ids ``(M, N)`` int64 and scores ``(M, N)`` float32, best first, ties by the smaller id.
        Scores that are not positive are returned too: dropping them is up to the caller.

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
    rounded = precision == "bfloat16"
    if precision == "auto":
        rounded = signed_MD.is_cuda or (has_tiles() and num_patches >= _FEW)
    if words is None or (rounded and words.rounding is None):
        words = prepare_words(raw_QD, rounded)
    bounds = patch_bounds(signed_MD, words, rounded)
    with exact_float32(signed_MD.device):
        maxima_MK = bucket_maxima(signed_MD, words, rounded, block)
        rows_C, ids_C = bucket_candidates(signed_MD, words.words_QD, maxima_MK, bounds, top_n)
    return rank_exactly(signed_MD, words.words_QD, rows_C, ids_C, top_n)


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


def has_tiles() -> bool:
    """Whether this processor multiplies bfloat16 much faster than float32 (AMX)."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported and supported() and torch.backends.mkldnn.is_available())


def bucket_maxima(
    signed_MD: Tensor,
    words: PreparedWords,
    rounded: bool,
    block: int | None = None,
    bucket: int = BUCKET,
) -> Tensor:
    """Return the largest score of each bucket of consecutive words, ``(M, K)`` float32.

    The product is in bfloat16 (adding up in float32) if `rounded`, else in float32; `block` words
    at a time, rounded down to whole buckets, whose memory is used again for the next.
    """
    num_patches, num_words = signed_MD.shape[0], words.words_QD.shape[0]
    block = block or by_device(BLOCK, signed_MD)
    block = max(bucket, block - block % bucket)
    dtype = torch.bfloat16 if rounded else torch.float32
    words_QD = words.words_QD
    if rounded and words.rounded_QD is not None:
        words_QD = words.rounded_QD
    short_MD = signed_MD.to(dtype)
    maxima_MK = signed_MD.new_empty(num_patches, -(-num_words // bucket))
    rows = min(num_patches, by_device(_ROWS, signed_MD))
    buffer = short_MD.new_empty(0 if signed_MD.is_cuda else rows * min(block, num_words))
    for start in range(0, num_words, block):
        words_BD, first = words_QD[start : start + block].to(dtype), start // bucket
        whole, rest = divmod(words_BD.shape[0], bucket)
        for row in range(0, num_patches, rows):
            scores_RB = _product(short_MD[row : row + rows], words_BD, buffer)
            into_RK = maxima_MK[row : row + rows, first : first + whole + bool(rest)]
            if whole:
                scores_RKC = scores_RB[:, : whole * bucket].unflatten(1, (whole, bucket))
                into_RK[:, :whole] = largest(scores_RKC)
            if rest:
                into_RK[:, whole:] = largest(scores_RB[:, None, whole * bucket :])
    return maxima_MK


def _product(part_RD: Tensor, words_BD: Tensor, buffer: Tensor) -> Tensor:
    """Multiply: into the buffer on a CPU; on CUDA with float32 output, also of bfloat16.

    There a bfloat16 output could hide partial sums in bfloat16, which no bound here covers.
    """
    if not part_RD.is_cuda:
        scores_RB = buffer[: part_RD.shape[0] * words_BD.shape[0]].view(-1, words_BD.shape[0])
        return torch.mm(part_RD, words_BD.T, out=scores_RB)
    if part_RD.dtype == torch.bfloat16:
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


def bucket_candidates(
    signed_MD: Tensor,
    words_QD: Tensor,
    maxima_MK: Tensor,
    bounds: PatchBounds,
    top_n: int,
) -> tuple[Tensor, Tensor]:
    """Find the words that can be among a patch's `top_n`, from the maxima of the buckets.

    Returns:
        Rows and word ids of the candidates, ``(C,)`` int64 each: all words that belong to the
        exact `top_n` of their row, and those that float32 cannot tell from the last of them.
    """
    num_patches, num_buckets = maxima_MK.shape
    low_M = cut_M = maxima_MK.new_full((num_patches,), -torch.inf)
    if top_n <= num_buckets:
        low_M, cut_M = screen_cuts(maxima_MK.topk(top_n, dim=1).values[:, -1], bounds)
    wanted_MK = maxima_MK >= cut_M[:, None]
    found = []
    for rows in _groups(wanted_MK.sum(1) * BUCKET):
        scored = _score_buckets(
            signed_MD[rows], words_QD, wanted_MK[rows], (low_M - bounds.rescore_M)[rows]
        )
        rows_C, ids_C = _keep_contenders(*scored, bounds.rescore_M[rows], top_n)
        found.append((rows_C + rows.start, ids_C))
    return torch.cat([rows for rows, _ in found]), torch.cat([ids for _, ids in found])


def _groups(costs_M: Tensor) -> Iterator[slice]:
    """Split the patches into runs of at most `_GROUP` scores, or of one patch."""
    start, spent = 0, 0
    for row, cost in enumerate(costs_M.tolist()):
        if spent and spent + cost > _GROUP:
            yield slice(start, row)
            start, spent = row, 0
        spent += cost
    yield slice(start, costs_M.shape[0])


def _score_buckets(
    signed_MD: Tensor, words_QD: Tensor, wanted_MK: Tensor, cut_M: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows, ids and float32 scores of the wanted buckets' words that reach the cut.

    Buckets that about as many patches want are multiplied with these together: no word's features
    are copied for a patch, and a GPU gets large products.
    """
    of_bucket, of_row = wanted_MK.T.nonzero(as_tuple=True)
    size_K = torch.bincount(of_bucket, minlength=wanted_MK.shape[1])
    first_K = size_K.cumsum(0) - size_K
    order_K = size_K.argsort(descending=True)
    sizes, last = size_K[order_K].tolist(), words_QD.shape[0] - 1
    within = torch.arange(BUCKET, device=words_QD.device)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    start = 0
    while start < len(sizes) and sizes[start]:
        most = sizes[start]
        bucket_G = order_K[start : start + max(1, by_device(_RESCORED, words_QD) // most)]
        start += len(bucket_G)
        place_R = torch.arange(most, device=words_QD.device)
        there_GR = place_R < size_K[bucket_G, None]
        row_GR = of_row[(first_K[bucket_G, None] + place_R).clamp(max=len(of_row) - 1)]
        id_GC = bucket_G[:, None] * BUCKET + within
        words_GCD = words_QD[id_GC.clamp(max=last)].float()
        scores_GRC = torch.bmm(signed_MD[row_GR], words_GCD.mT)
        kept_GRC = (scores_GRC >= cut_M[row_GR][..., None]) & there_GR[..., None]
        kept_GRC &= (id_GC <= last)[:, None]
        group, row, column = kept_GRC.nonzero(as_tuple=True)
        found.append((row_GR[group, row], id_GC[group, column], scores_GRC[kept_GRC]))
    rows, ids, scores = zip(*found, strict=True)
    return torch.cat(rows), torch.cat(ids), torch.cat(scores)


def _keep_contenders(
    rows_C: Tensor, ids_C: Tensor, scores_C: Tensor, error_M: Tensor, top_n: int
) -> tuple[Tensor, Tensor]:
    """Drop candidates that `top_n` others of their row surely beat, given the rows' errors."""
    order = scores_C.sort(descending=True).indices
    order = order[rows_C[order].sort(stable=True).indices]
    nth = _place(rows_C[order], error_M.shape[0]) == top_n - 1
    cut_M = torch.full_like(error_M, -torch.inf)
    cut_M[rows_C[order][nth]] = scores_C[order][nth]
    kept = scores_C >= (cut_M - 2 * error_M)[rows_C]
    return rows_C[kept], ids_C[kept]


def rank_exactly(
    signed_MD: Tensor, words_QD: Tensor, rows_C: Tensor, ids_C: Tensor, top_n: int
) -> tuple[Tensor, Tensor]:
    """Score candidates in float64, round to float32, and rank them; ties by the smaller id.

    Each patch has at least ``min(top_n, Q)`` candidates, none twice.
    """
    num_patches, keep = signed_MD.shape[0], min(top_n, words_QD.shape[0])
    scores_C = signed_MD.new_empty(rows_C.shape)
    step = by_device(_RANKED, signed_MD)
    for start in range(0, rows_C.shape[0], step):
        part = slice(start, start + step)
        patches_CD = signed_MD[rows_C[part]].double()
        scores_C[part] = patches_CD.mul_(words_QD[ids_C[part]]).sum(1).float()
    order = ids_C.sort().indices
    order = order[scores_C[order].sort(descending=True, stable=True).indices]
    order = order[rows_C[order].sort(stable=True).indices]
    place = _place(rows_C[order], num_patches)
    order, place = order[place < keep], place[place < keep]
    assert order.shape[0] == num_patches * keep, "a patch has fewer candidates than words to keep"
    ids_MN = ids_C.new_empty(num_patches, keep)
    scores_MN = signed_MD.new_empty(num_patches, keep)
    ids_MN[rows_C[order], place] = ids_C[order]
    scores_MN[rows_C[order], place] = scores_C[order]
    return ids_MN, scores_MN


def _place(rows_C: Tensor, num_rows: int) -> Tensor:
    """Return each entry's place among those of its row; rows ascend."""
    counts_M = torch.bincount(rows_C, minlength=num_rows)
    first_M = counts_M.cumsum(0) - counts_M
    return torch.arange(rows_C.shape[0], device=rows_C.device) - first_M[rows_C]
