"""Localisation test: labels of two half images against both captions.

Caption lift cannot tell the place: an encoder that spreads an object over all patches names the
right words everywhere. So halves of two images are put together, the left of one and the right of
the next, and the labels of each half are compared with both captions. A label that belongs where it
stands is in its own half's caption and not in the other's. This needs captions alone, so real data
have it too. Only words that are in one of the two captions count.

    place lift    how much more often a drawn label (eq. 9) is in its own half's caption than in the
                  other half's: 1 for labels that know the image and not the place
    place recall  for a word of one caption alone: the largest chance of any patch of its half to
                  draw it, less the same of the other half, averaged over a half's words, then over
                  halves. Each word of a caption counts the same, however few patches show it, so
                  things count as much as the background that covers most of the image.

Limits: a half lacks the words that its caption has for the other half, which lowers recall alike
for all labels. Neighbouring mosaics share an image; the standard errors take them as independent.

Shape letters: I mosaics, P patches, N labels of a patch, M labels of a half, Q words, W words of
one caption.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Place:
    """Results of the mosaics; errors are standard errors over mosaics (lift), halves (recall)."""

    lift: float
    lift_error: float
    recall: float
    recall_error: float


def cut_column(grid: tuple[int, int]) -> int:
    """The first column of patches of the right half."""
    return grid[1] // 2


def make_mosaics(pixels_BCHW: Tensor, grid: tuple[int, int]) -> Tensor:
    """Put the left half of each image beside the right half of the next; one fewer comes back.

    Args:
        pixels_BCHW: images as the encoder gets them.
        grid: rows and columns of patches; the cut runs between two columns.
    """
    cut = cut_column(grid) * (pixels_BCHW.shape[-1] // grid[1])
    return torch.cat([pixels_BCHW[:-1, ..., :cut], pixels_BCHW[1:, ..., cut:]], -1)


def measure_place(
    ids_IPN: NDArray[np.integer],
    chance_IPN: Floats,
    grid: tuple[int, int],
    left: Sequence[NDArray[np.int64]],
    right: Sequence[NDArray[np.int64]],
    num_words: int,
) -> Place:
    """Compare the labels of mosaics with their halves' captions.

    Args:
        ids_IPN: labels of each mosaic's patches.
        chance_IPN: their chances to be drawn, from `drawing.draw_chances`.
        grid: rows and columns of patches.
        left: ids of the words in the left half's caption, for each mosaic.
        right: the same of the right half.
        num_words: the length of the word list.

    Returns:
        The two measures; nan where no caption has a word to itself, or nothing was drawn.
    """
    is_left_P = np.arange(ids_IPN.shape[1]) % grid[1] < cut_column(grid)
    best_2Q = np.zeros((2, num_words))
    own_I, other_I = np.zeros(len(ids_IPN)), np.zeros(len(ids_IPN))
    recalls: list[float] = []
    for number, (ids_PN, chance_PN) in enumerate(zip(ids_IPN, chance_IPN, strict=True)):
        halves = [(ids_PN[of].ravel(), chance_PN[of].ravel()) for of in (is_left_P, ~is_left_P)]
        for best_Q, (ids_M, chance_M) in zip(best_2Q, halves, strict=True):
            np.maximum.at(best_Q, ids_M, chance_M)
        words = (
            np.setdiff1d(left[number], right[number]),
            np.setdiff1d(right[number], left[number]),
        )
        for own, words_W in enumerate(words):
            if len(words_W):
                recalls.append(float((best_2Q[own, words_W] - best_2Q[1 - own, words_W]).mean()))
            for half, (ids_M, chance_M) in enumerate(halves):
                hits = float(chance_M[np.isin(ids_M, words_W)].sum())
                (own_I if half == own else other_I)[number] += hits
        for best_Q, (ids_M, _) in zip(best_2Q, halves, strict=True):
            best_Q[ids_M] = 0.0
    lift, lift_error = _ratio(own_I, other_I)
    recall = float(np.mean(recalls)) if recalls else math.nan
    return Place(lift, lift_error, recall, _standard_error(np.array(recalls)))


def _ratio(own_I: Floats, other_I: Floats) -> tuple[float, float]:
    """The ratio of two sums and its standard error (delta method)."""
    own, other = float(own_I.sum()), float(other_I.sum())
    if other == 0:
        return (math.inf if own else math.nan), math.nan
    ratio = own / other
    return ratio, _standard_error(own_I - ratio * other_I) * len(own_I) / other


def _standard_error(values: Floats) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
