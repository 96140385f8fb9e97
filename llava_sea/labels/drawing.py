"""The draws of eq. 9, as expected values: shares of right labels, and of patches that agree.

A patch draws one of its labels with probability S / sum(S); scores not above 0 are no labels. So
every measure here is an expected value, exact, and needs no random numbers.

Spatial consistency is the chance that two patches draw the same label: neighbours (side by side),
against patches of the same image that are no neighbours, and against patches of other images.
Labels that ignore the patch and name the whole image agree between neighbours, but as often
between the others of the same image: the ratio of the first two says "local".

Limits: patches without a label are left out of both; how many there are is counted beside.

Shape letters: I images, P patches, N labels of a patch, E pairs of neighbours, Q words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def draw_chances(scores_PN: NDArray[np.floating]) -> Floats:
    """Return each label's chance to be drawn (SEA eq. 9), any leading shape; rows sum to 1 or 0."""
    weight_PN = np.maximum(scores_PN, 0).astype(np.float64)
    total_P1 = weight_PN.sum(-1, keepdims=True)
    return np.divide(weight_PN, total_P1, out=np.zeros_like(weight_PN), where=total_P1 > 0)


def neighbour_pairs(grid: tuple[int, int]) -> NDArray[np.int64]:
    """List the pairs of patches that share a side, ``(E, 2)``."""
    number = np.arange(grid[0] * grid[1]).reshape(grid)
    across = np.stack([number[:, :-1].ravel(), number[:, 1:].ravel()], 1)
    down = np.stack([number[:-1].ravel(), number[1:].ravel()], 1)
    return np.concatenate([across, down])


@dataclass(frozen=True)
class Agreement:
    """Chances that two patches draw the same label; nan where there is no such pair."""

    near: float  # neighbours
    apart: float  # the same image, no neighbours
    elsewhere: float  # different images
    local: float  # near / apart


def agreement(
    ids_IPN: NDArray[np.integer],
    chance_IPN: Floats,
    grid: tuple[int, int],
    num_words: int,
) -> Agreement:
    """Measure spatial consistency.

    Args:
        ids_IPN: labels.
        chance_IPN: their chances to be drawn, from `draw_chances`.
        grid: rows and columns of patches.
        num_words: the length of the word list.
    """
    near_E2 = neighbour_pairs(grid)
    near, near_pairs, whole, whole_pairs = 0.0, 0, 0.0, 0
    all_Q, squares, patches, own_pairs = np.zeros(num_words), 0.0, 0, 0
    for ids_PN, chance_PN in zip(ids_IPN, chance_IPN, strict=True):
        labelled_P = chance_PN.any(-1)
        count = int(labelled_P.sum())
        a_E, b_E = near_E2.T
        same_ENN = ids_PN[a_E][:, :, None] == ids_PN[b_E][:, None, :]
        # For each pair: sum over equal labels of chance times chance.
        near += float(np.einsum("enm,en,em->", same_ENN, chance_PN[a_E], chance_PN[b_E]))
        near_pairs += int((labelled_P[a_E] & labelled_P[b_E]).sum())
        used_U, position = np.unique(ids_PN, return_inverse=True)
        sum_U = np.bincount(position.ravel(), chance_PN.ravel())
        square = float((sum_U**2).sum())
        # Unordered pairs of different patches: the square of the sum less the patches' own.
        whole += (square - float((chance_PN**2).sum())) / 2
        whole_pairs += count * (count - 1) // 2
        np.add.at(all_Q, used_U, sum_U)
        squares += square
        patches += count
        own_pairs += count * count
    beside = _share(near, near_pairs)
    apart = _share(whole - near, whole_pairs - near_pairs)
    elsewhere = _share(float((all_Q**2).sum()) - squares, patches * patches - own_pairs)
    return Agreement(beside, apart, elsewhere, beside / apart if apart > 0 else math.nan)


@dataclass(frozen=True)
class Precision:
    """Shares of right labels over the labelled patches of a kind; nan if there are none."""

    top1: float  # the best label
    top_n: float  # any kept label
    sampled: float  # the drawn label (eq. 9), its expected value
    labelled: float  # share of the patches that have a label


def precision(
    right_IPN: NDArray[np.bool_], scores_IPN: NDArray[np.floating], of_IP: NDArray[np.bool_]
) -> Precision:
    """Measure precision over some of the patches.

    Args:
        right_IPN: whether each label is true of its patch.
        scores_IPN: its score; not above 0 means no label.
        of_IP: which patches.
    """
    right_MN, scores_MN = right_IPN[of_IP], scores_IPN[of_IP]
    kept_MN = scores_MN > 0
    count = int(kept_MN.any(-1).sum())
    return Precision(
        _share(float((right_MN & kept_MN)[:, 0].sum()), count),
        _share(float((right_MN & kept_MN).sum()), int(kept_MN.sum())),
        _share(float((right_MN * draw_chances(scores_MN)).sum()), count),
        _share(float(count), len(scores_MN)),
    )


def _share(part: float, whole: int) -> float:
    return part / whole if whole else math.nan
