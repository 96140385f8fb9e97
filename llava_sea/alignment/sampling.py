"""From a picture's labels to the pairs of one step: draw, window, one patch per label (3.2, 1-3).

Every draw comes from (seed, epoch, record) alone: a run repeats exactly, whatever the number of
workers and wherever it was resumed. Each pair carries a random key; of the pairs that share a label
the smallest key stays, so the one place that sees the whole batch (the collator, or all ranks
together) needs no random numbers of its own.

Shape letters: P patches, N labels of a patch or pairs of a batch, K pairs of a picture.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Pairs(NamedTuple):
    """The pairs drawn for one picture, all int64 of shape ``(K,)``."""

    patch_K: NDArray[np.int64]
    label_K: NDArray[np.int64]
    key_K: NDArray[np.int64]


def num_windows(grid: tuple[int, int], window: int) -> int:
    """Count the windows of a grid; the last row and column may be narrower (27 by 2 gives 14)."""
    return math.ceil(grid[0] / window) * math.ceil(grid[1] / window)


def sample_pairs(
    ids_PN: NDArray[np.integer],
    scores_PN: NDArray[np.floating],
    grid: tuple[int, int],
    *,
    window: int,
    seed: int,
    epoch: int,
    record: int,
) -> Pairs:
    """Draw at most one (patch, label) pair from every ``window x window`` block of patches.

    A patch is drawn uniformly from those of its window that have a label; its label with
    probability S / sum(S) (SEA eq. 9). A window without a labelled patch gives no pair.

    Args:
        ids_PN: label ids of each patch, row-major over the grid, ``(P, N)``.
        scores_PN: their scores, ``(P, N)``; an entry that is not above 0 is no label.
        grid: rows and columns of patches; their product is P.
        window: k, the side of a window in patches (the paper: 2; 1 keeps every patch).
        seed: the run's seed.
        epoch: the pass over the data, from 0.
        record: the record's index in the data.

    Raises:
        ValueError: if the grid does not hold P patches or the window is below 1.
    """
    rows, columns = grid
    if rows * columns != len(scores_PN):
        raise ValueError(f"a grid of {rows} x {columns} patches does not hold {len(scores_PN)}")
    if window < 1:
        raise ValueError(f"the window must be at least 1 patch wide, got {window}")
    rng = np.random.default_rng([seed & 0xFFFFFFFF, epoch, record])
    weight_PN = np.maximum(scores_PN.astype(np.float64), 0.0)
    total_P = weight_PN.sum(1)

    # One patch a window: the largest of independent uniform numbers among the labelled ones.
    lot_P = np.where(total_P > 0, rng.random(len(total_P)), -1.0)
    row_P, column_P = np.divmod(np.arange(rows * columns), columns)
    window_P = (row_P // window) * math.ceil(columns / window) + column_P // window
    order_P = np.lexsort((-lot_P, window_P))
    first_P = np.ones(len(order_P), bool)
    first_P[1:] = window_P[order_P][1:] != window_P[order_P][:-1]
    patch_K = order_P[first_P]
    patch_K = patch_K[total_P[patch_K] > 0]

    # One label a patch: the inverse of the cumulative distribution.
    cumulative_KN = weight_PN[patch_K].cumsum(1)
    draw_K = rng.random(len(patch_K)) * cumulative_KN[:, -1]
    choice_K = (cumulative_KN > draw_K[:, None]).argmax(1)
    label_K = ids_PN[patch_K, choice_K].astype(np.int64)
    key_K = rng.integers(0, 2**62, len(patch_K), dtype=np.int64)
    return Pairs(patch_K.astype(np.int64), label_K, key_K)


def keep_one_per_label(label_N: Tensor, key_N: Tensor, valid_N: Tensor) -> Tensor:
    """Of the valid pairs that share a label keep the one with the smallest key (3.2, step 3).

    Args:
        label_N: label ids, int64 ``(N,)``.
        key_N: random keys, int64 ``(N,)``; equal keys leave the earlier pair.
        valid_N: bool ``(N,)``; a pair that is not valid neither stays nor displaces another.

    Returns:
        bool ``(N,)``: the pairs that stay.
    """
    by_key_N = key_N.argsort(stable=True)
    by_valid_N = by_key_N[(~valid_N[by_key_N]).to(torch.uint8).argsort(stable=True)]
    order_N = by_valid_N[label_N[by_valid_N].argsort(stable=True)]
    sorted_N = label_N[order_N]
    first_N = torch.ones_like(valid_N)
    first_N[1:] = sorted_N[1:] != sorted_N[:-1]
    keep_N = torch.zeros_like(valid_N)
    keep_N[order_N] = first_N
    return keep_N & valid_N
