"""Labels of one patch grid for another (cross-encoder transfer, table 5): resampled by overlap.

Both grids cover the same part of the image. A target patch takes the labels of the source patches
that it overlaps, their scores weighted by the share of its area that each covers; a word of several
sources counts once, with its scores added up. Equal grids are taken one to one.

Shape letters: P source patches, Q target patches, K sources of a target, N labels of a patch, E its
entries: K x N.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llava_sea.alignment.sampling import check_scores


class Overlap(NamedTuple):
    """For each target patch its source patches and the shares of its area that they cover."""

    source_QK: NDArray[np.int64]
    share_QK: NDArray[np.float64]

    @property
    def one_to_one(self) -> bool:
        """Whether each target lies in a single source patch and simply has its labels."""
        return self.source_QK.shape[1] == 1

    def of(self, patch_Q: NDArray[np.int64]) -> Overlap:
        """Return the rows of some targets: only patches that are drawn need resampling."""
        return Overlap(self.source_QK[patch_Q], self.share_QK[patch_Q])

    def labelled(self, labelled_P: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Say which targets overlap a source patch that has a label, bool ``(Q,)``."""
        if self.one_to_one:
            return labelled_P[self.source_QK[:, 0]]
        return np.asarray((labelled_P[self.source_QK] & (self.share_QK > 0)).any(1))


def grid_overlap(source: tuple[int, int], target: tuple[int, int]) -> Overlap:
    """Return which source patches each target patch overlaps, row-major; shares add up to 1."""
    rows, row_shares = _axis_overlap(source[0], target[0])
    columns, column_shares = _axis_overlap(source[1], target[1])
    patches = rows[:, None, :, None] * source[1] + columns[None, :, None, :]
    shares = row_shares[:, None, :, None] * column_shares[None, :, None, :]
    count = target[0] * target[1]
    return Overlap(patches.reshape(count, -1), shares.reshape(count, -1))


def _axis_overlap(source: int, target: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Along one axis: for each target cell its source cells and shares, padded with shares of 0.

    Lengths are counted in 1 / (source * target), so every bound is a whole number.
    """
    start = np.arange(target) * source
    first = start // target
    last = (start + source - 1) // target
    cells = first[:, None] + np.arange(int((last - first).max()) + 1)
    low = np.maximum(cells * target, start[:, None])
    high = np.minimum((cells + 1) * target, start[:, None] + source)
    shares = np.maximum(high - low, 0) / source
    return np.minimum(cells, source - 1), shares


def transfer_labels(
    ids_PN: NDArray[np.integer], scores_PN: NDArray[np.floating], overlap: Overlap
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Resample an image's labels; scores not above 0 are no labels (3.1).

    Returns:
        ids and scores ``(Q, N)`` of the target patches, best first (ties by id); a score of 0 where
        a patch has fewer than N labels. More than N words are cut to the N best.

    Raises:
        ValueError: if a score that is used is NaN or infinite.
    """
    num_targets, num_labels = len(overlap.source_QK), ids_PN.shape[1]
    if overlap.one_to_one:
        source_Q = overlap.source_QK[:, 0]
        scores_QN = scores_PN[source_Q].astype(np.float32)
        check_scores(scores_QN)
        return ids_PN[source_Q].astype(np.int64), scores_QN
    entries = (num_targets, overlap.source_QK.shape[1] * num_labels)
    ids_QE = ids_PN[overlap.source_QK].astype(np.int64).reshape(entries)
    weight_QKN = np.maximum(scores_PN[overlap.source_QK].astype(np.float64), 0)
    check_scores(weight_QKN)
    weight_QE = (weight_QKN * overlap.share_QK[:, :, None]).reshape(entries)
    # Equal words beside each other, in the order of their sources; sums stand at the first of each.
    ids_QE, order_QE = _sorted_rows(ids_QE)
    weight_QE = np.take_along_axis(weight_QE, order_QE, 1)
    first_QE = np.ones(ids_QE.shape, bool)
    first_QE[:, 1:] = ids_QE[:, 1:] != ids_QE[:, :-1]
    word_QE = first_QE.ravel().cumsum() - 1
    sum_QE = np.zeros(ids_QE.shape, np.float32)
    sum_QE[first_QE] = np.bincount(word_QE, weight_QE.ravel())
    # Floats that are not negative order as their bits do; equal ones stay in the order of ids.
    negated_QE, order_QE = _sorted_rows(-sum_QE.view(np.int32).astype(np.int64))
    scores_QN = (-negated_QE[:, :num_labels]).astype(np.int32).view(np.float32)
    ids_QN = np.take_along_axis(ids_QE, order_QE[:, :num_labels], 1)
    ids_QN[scores_QN == 0] = 0
    return ids_QN, scores_QN


def _sorted_rows(values_QE: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort each row, equal values in their old order; return it and where each came from.

    The place in the lowest bits makes the order of plain numbers, which numpy sorts several times
    as fast as it does a stable argsort. The values lie within 32 bits and a sign.
    """
    length = values_QE.shape[1]
    bits = max(0, length - 1).bit_length()
    keys_QE = np.sort((values_QE << bits) | np.arange(length), axis=1)
    return keys_QE >> bits, keys_QE & ((1 << bits) - 1)
