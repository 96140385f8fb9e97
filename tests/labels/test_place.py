import math

import numpy as np
import pytest
import torch

from llava_sea.labels.drawing import draw_chances
from llava_sea.labels.place import cut_column, make_mosaics, measure_place

GRID, WORDS = (2, 3), 8  # the left half is one column: patches 0 and 3


def test_mosaics_are_the_left_of_one_and_the_right_of_the_next():
    pixels = torch.arange(3.0)[:, None, None, None].expand(3, 3, 8, 12)
    mosaics = make_mosaics(pixels, GRID)
    assert cut_column(GRID) == 1 and mosaics.shape == (2, 3, 8, 12)
    for number, mosaic in enumerate(mosaics):
        assert (mosaic[..., :4] == number).all() and (mosaic[..., 4:] == number + 1).all()


def naive(ids, chances, left, right):
    own_sum = other_sum = 0.0
    recalls = []
    for i in range(len(ids)):
        halves = ([0, 3], [1, 2, 4, 5])
        alone = (set(left[i]) - set(right[i]), set(right[i]) - set(left[i]))
        for own, words in enumerate(alone):
            best = {w: [0.0, 0.0] for w in words}
            for half, patches in enumerate(halves):
                for p in patches:
                    for label, chance in zip(ids[i, p], chances[i, p], strict=True):
                        if label in words:
                            best[label][half] = max(best[label][half], chance)
                            if half == own:
                                own_sum += chance
                            else:
                                other_sum += chance
            if words:
                recalls.append(np.mean([b[own] - b[1 - own] for b in best.values()]))
    return own_sum / other_sum, np.mean(recalls), np.std(recalls, ddof=1) / len(recalls) ** 0.5


def planted(seed, mosaics=7):
    rng = np.random.default_rng(seed)
    ids = rng.permuted(np.tile(np.arange(WORDS), (mosaics, 6, 1)), axis=-1)[..., :3]
    chances = draw_chances(rng.normal(0.2, 1, ids.shape))
    draw = [np.flatnonzero(rng.random(WORDS) < 0.4) for _ in range(mosaics + 1)]
    return ids, chances, draw[:-1], draw[1:]


@pytest.mark.parametrize("seed", range(4))
def test_measures_equal_a_loop_over_every_label(seed):
    ids, chances, left, right = planted(seed)
    found = measure_place(ids, chances, GRID, left, right, WORDS)
    lift, recall, error = naive(ids, chances, left, right)
    assert (found.lift, found.recall, found.recall_error) == pytest.approx((lift, recall, error))


def test_lift_error_is_that_of_a_bootstrap():
    ids, chances, left, right = planted(9, mosaics=150)
    found = measure_place(ids, chances, GRID, left, right, WORDS)
    rng, lifts = np.random.default_rng(0), []
    for _ in range(100):
        rows = rng.integers(0, 150, 150)
        picked = ([left[i] for i in rows], [right[i] for i in rows])
        lifts.append(measure_place(ids[rows], chances[rows], GRID, *picked, WORDS).lift)
    assert found.lift_error == pytest.approx(np.std(lifts), rel=0.25)


def labels(left_word, right_word, mosaics=4):
    ids = np.full((mosaics, 6, 1), right_word)
    ids[:, [0, 3]] = left_word
    return ids, np.ones(ids.shape)


def test_words_in_place_swapped_and_everywhere():
    left, right = [np.array([1, 7])] * 4, [np.array([2, 7])] * 4  # 7 is in both: it says nothing
    at = measure_place(*labels(1, 2), GRID, left, right, WORDS)
    assert at.recall == 1.0 and at.lift == math.inf
    swapped = measure_place(*labels(2, 1), GRID, left, right, WORDS)
    assert swapped.recall == -1.0 and swapped.lift == 0.0
    ids = np.tile([1, 2], (4, 6, 1))
    everywhere = measure_place(ids, np.full(ids.shape, 0.5), GRID, left, right, WORDS)
    assert everywhere.recall == 0.0
    assert everywhere.lift == 1.0  # two and four patches, the same share of each half
    both = measure_place(*labels(7, 7), GRID, left, right, WORDS)
    assert both.recall == 0.0 and math.isnan(both.lift)


def test_captions_without_words_are_no_number():
    none = [np.array([], int)] * 4
    found = measure_place(*labels(1, 2), GRID, none, none, WORDS)
    assert math.isnan(found.recall) and math.isnan(found.lift) and math.isnan(found.recall_error)
