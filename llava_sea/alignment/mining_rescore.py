"""From buckets that can hold a top word to the words, and from few words to the exact ranking.

On a CPU the buckets are gone through one by one: each is one small float32 product with the patches
that want it, so that no word's features are copied per patch.

Shape letters: M patches, Q words, D joint dimension, K buckets, N kept words, G patches of a group,
R patches that want a bucket, C candidates (pairs of a patch and a word).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from llava_sea.alignment.mining_bounds import PatchBounds, screen_cuts
from llava_sea.alignment.mining_screen import BUCKET

_GROUP = 1 << 25
"""Scores that a group of patches may have rescored: a bound for word lists of equal words."""
_AT_A_TIME = {"cpu": 256, "cuda": 1 << 18}
"""Pairs scored in float64 at a time: they stay in a core's cache, or fill a GPU."""


def bucket_candidates(
    signed_MD: Tensor,
    words_QD: Tensor,
    maxima_MK: Tensor,
    bounds: PatchBounds,
    top_n: int,
) -> tuple[Tensor, Tensor]:
    """Find the words that can be among a patch's `top_n`.

    Args:
        signed_MD: the patches, float32.
        words_QD: the words.
        maxima_MK: from `bucket_maxima`.
        bounds: of the patches.
        top_n: words kept for a patch.

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
        rows_C, ids_C = keep_contenders(*scored, bounds.rescore_M[rows], top_n)
        found.append((rows_C + rows.start, ids_C))
    return torch.cat([rows for rows, _ in found]), torch.cat([ids for _, ids in found])


def keep_contenders(
    rows_C: Tensor, ids_C: Tensor, scores_C: Tensor, error_M: Tensor, top_n: int
) -> tuple[Tensor, Tensor]:
    """Drop candidates that `top_n` others of their row surely beat.

    Args:
        rows_C: the candidates' rows; int64.
        ids_C: their words; int64.
        scores_C: their scores, each within the row's error of the exact one.
        error_M: the rows' errors.
        top_n: words kept for a row.

    Returns:
        Rows and ids of those that are left.
    """
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

    Args:
        signed_MD: the patches, float32.
        words_QD: the words.
        rows_C: the candidates' patches; at least ``min(top_n, Q)`` of each.
        ids_C: their words; no pair twice.
        top_n: words kept for a patch.

    Returns:
        ids ``(M, N)`` int64 and scores ``(M, N)`` float32, best first.
    """
    num_patches, keep = signed_MD.shape[0], min(top_n, words_QD.shape[0])
    scores_C = signed_MD.new_empty(rows_C.shape)
    step = _AT_A_TIME["cuda" if signed_MD.is_cuda else "cpu"]
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


def _score_buckets(
    signed_GD: Tensor, words_QD: Tensor, wanted_GK: Tensor, cut_G: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows, ids and float32 scores of the wanted buckets' words that reach the cut."""
    of_bucket, of_row = wanted_GK.T.nonzero(as_tuple=True)
    sizes = torch.bincount(of_bucket, minlength=wanted_GK.shape[1]).tolist()
    rows, ids, scores = [of_row[:0]], [of_row[:0]], [cut_G[:0]]
    for bucket, row_R in enumerate(of_row.split(sizes)):
        if not sizes[bucket]:
            continue
        start = bucket * BUCKET
        words_CD = words_QD[start : start + BUCKET].float()
        scores_RC = signed_GD[row_R] @ words_CD.T
        row, column = (scores_RC >= cut_G[row_R][:, None]).nonzero(as_tuple=True)
        rows.append(row_R[row])
        ids.append(column + start)
        scores.append(scores_RC[row, column])
    return torch.cat(rows), torch.cat(ids), torch.cat(scores)


def _groups(costs_M: Tensor) -> Iterator[slice]:
    """Split the patches into runs of at most `_GROUP` scores, or of one patch."""
    start, spent = 0, 0
    for row, cost in enumerate(costs_M.tolist()):
        if spent and spent + cost > _GROUP:
            yield slice(start, row)
            start, spent = row, 0
        spent += cost
    yield slice(start, costs_M.shape[0])


def _place(rows_C: Tensor, num_rows: int) -> Tensor:
    """Return each entry's place among those of its row; rows ascend."""
    counts_M = torch.bincount(rows_C, minlength=num_rows)
    first_M = counts_M.cumsum(0) - counts_M
    return torch.arange(rows_C.shape[0], device=rows_C.device) - first_M[rows_C]
