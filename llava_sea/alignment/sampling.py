"""From an image's labels to the pairs of one step: draw, window, one patch per label (3.2, 1-3).

Every draw comes from (seed, epoch, record) alone: a run repeats exactly, whatever the number of
workers and wherever it was resumed. Each pair carries a random key; of the pairs that share a label
the smallest key stays, so the one place that sees the whole batch (the collator, or all ranks
together) needs no random numbers of its own.

Shape letters: P patches, N labels of a patch or pairs of a batch, K pairs of an image, W windows,
C patches of a window.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Pairs(NamedTuple):
    """The pairs drawn for one image, all int64 of shape ``(K,)``."""

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
        ids_PN: label ids of each patch, row-major over the grid.
        scores_PN: their scores; an entry that is not above 0 is no label.
        grid: rows and columns of patches; their product is P.
        window: k, the side of a window in patches (the paper: 2; 1 keeps every patch).
        seed: the run's seed.
        epoch: the pass over the data, from 0.
        record: the record's index in the data.

    Raises:
        ValueError: if the grid does not hold P patches, the window is below 1 or a score is no
            number.
    """
    try:
        check_scores(scores_PN)
    except ValueError as error:
        raise ValueError(f"record {record}: {error}") from None
    rng = pair_generator(seed, epoch, record)
    patch_K = draw_patches(has_label(scores_PN), grid, window, rng)
    label_K, key_K = draw_labels(ids_PN[patch_K], scores_PN[patch_K], rng)
    return Pairs(patch_K, label_K, key_K)


def pair_generator(seed: int, epoch: int, record: int) -> np.random.Generator:
    """Return what all draws of a record in an epoch come from."""
    return np.random.default_rng([seed & 0xFFFFFFFF, epoch, record])


def check_scores(scores: NDArray[np.floating]) -> None:
    """Raise a ValueError for a score of NaN or infinity; minus infinity is no label."""
    largest = scores.max(initial=0)  # NaN is the largest of all
    if not np.isfinite(largest):
        raise ValueError(f"a score is {largest}, labels are drawn by finite scores alone")


def has_label(scores_PN: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Say which patches have a score above 0, bool ``(P,)``."""
    if scores_PN.dtype == np.float16:
        # The same bits as integers are above 0 in the same places, and compared much faster.
        return np.asarray((scores_PN.view(np.int16) > 0).any(1))
    return np.asarray((scores_PN > 0).any(1))


def draw_patches(
    labelled_P: NDArray[np.bool_], grid: tuple[int, int], window: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw one labelled patch, each equally likely, from every window that has one.

    `rng` is of `pair_generator`. Returns patches in the order of their windows, row-major.

    Raises:
        ValueError: if the grid does not hold P patches or the window is below 1.
    """
    rows, columns = grid
    if rows * columns != len(labelled_P):
        raise ValueError(f"a grid of {rows} x {columns} patches does not hold {len(labelled_P)}")
    if window < 1:
        raise ValueError(f"the window must be at least 1 patch wide, got {window}")
    # The largest of independent uniform numbers among a window's labelled patches. The lot after
    # the last patch stands for the places that a narrower window does not have.
    lot = np.full(len(labelled_P) + 1, -1.0)
    lot[:-1] = np.where(labelled_P, rng.random(len(labelled_P)), -1.0)
    place_WC = _window_patches(grid, window)
    lot_WC = lot[place_WC]
    best_W = lot_WC.argmax(1)
    window_W = np.arange(len(place_WC))
    patch_K: NDArray[np.int64] = place_WC[window_W, best_W][lot_WC[window_W, best_W] >= 0]
    return patch_K


def draw_labels(
    ids_KN: NDArray[np.integer], scores_KN: NDArray[np.floating], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw a label for each patch with probability S / sum(S) (SEA eq. 9), and a random key.

    Each patch has at least one score above 0; `rng` is of `pair_generator`, after the patches.
    """
    # The inverse of the cumulative distribution.
    cumulative_KN = np.maximum(scores_KN.astype(np.float64), 0.0).cumsum(1)
    draw_K = rng.random(len(ids_KN)) * cumulative_KN[:, -1]
    choice_K = (cumulative_KN > draw_K[:, None]).argmax(1)
    label_K = ids_KN[np.arange(len(ids_KN)), choice_K].astype(np.int64)
    return label_K, rng.integers(0, 2**62, len(ids_KN), dtype=np.int64)


@lru_cache(maxsize=64)
def _window_patches(grid: tuple[int, int], window: int) -> NDArray[np.int64]:
    """Return each window's patches ``(W, C)``, row-major, padded with P where it is narrower."""
    rows, columns = grid
    place = np.full(
        (math.ceil(rows / window) * window, math.ceil(columns / window) * window), rows * columns
    )
    place[:rows, :columns] = np.arange(rows * columns).reshape(rows, columns)
    by_window = place.reshape(place.shape[0] // window, window, place.shape[1] // window, window)
    return by_window.transpose(0, 2, 1, 3).reshape(-1, window * window)


def keep_one_per_label(label_N: Tensor, key_N: Tensor, valid_N: Tensor) -> Tensor:
    """Of the valid pairs that share a label keep the one with the smallest key (3.2, step 3).

    Equal keys leave the earlier pair; one that is not valid neither stays nor displaces another.
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
