import math
from dataclasses import astuple

import numpy as np
import pytest
import torch

from llava_sea.alignment import sample_pairs
from llava_sea.labels.quality_measures import (
    Agreement,
    agreement,
    draw_chances,
    make_mosaics,
    measure_place,
    precision,
)

GRID = (2, 3)  # the left half is one column: patches 0 and 3
WORDS = 8


def planted(seed, images=4):
    """Three different words a patch, some with scores below 0, and a patch without a label."""
    rng = np.random.default_rng(seed)
    ids = rng.permuted(np.tile(np.arange(WORDS), (images, 6, 1)), axis=-1)[..., :3]
    scores = rng.normal(0.3, 1, ids.shape)
    scores[0, 1] = -1.0
    return ids, scores


def test_chances_are_shares_of_the_positive_scores_as_the_sampler_draws():
    chances = draw_chances(np.array([[0.6, 0.2, 0.0], [0.3, -5.0, -0.1], [-1.0, 0.0, -2.0]]))
    np.testing.assert_allclose(chances, [[0.75, 0.25, 0], [1, 0, 0], [0, 0, 0]])
    ids, scores = planted(0)
    draws, counts = 4000, np.zeros(ids[1].shape)
    for record in range(draws):
        pairs = sample_pairs(ids[1], scores[1], GRID, window=1, seed=0, epoch=0, record=record)
        for patch, label in zip(pairs.patch_K, pairs.label_K, strict=True):
            counts[patch, list(ids[1][patch]).index(label)] += 1
    np.testing.assert_allclose(counts / draws, draw_chances(scores[1]), atol=0.04)


@pytest.mark.parametrize("seed", range(3))
def test_agreement_equals_all_pairs_one_by_one(seed):
    ids, scores = planted(seed)
    chances, found = draw_chances(scores), {"near": [], "apart": []}
    for i in range(len(ids)):
        patches = [p for p in range(6) if chances[i, p].any()]
        for p, q in ((p, q) for p in patches for q in patches if p < q):
            same = chances[i, p] @ (ids[i, p][:, None] == ids[i, q]) @ chances[i, q]
            step = abs(p // 3 - q // 3) + abs(p % 3 - q % 3)
            found["near" if step == 1 else "apart"].append(same)
    near, apart = map(np.mean, found.values())
    assert astuple(agreement(ids, chances, GRID)) == pytest.approx((near, apart, near / apart))


def test_labels_of_the_whole_image_agree_and_are_not_local():
    """Image i says word i everywhere; then its left two columns say 4 and the right one 5."""
    whole = np.repeat(np.arange(3), 6).reshape(3, 6, 1)
    assert agreement(whole, np.ones((3, 6, 1)), GRID) == Agreement(1.0, 1.0, 1.0)
    parts = np.tile([4, 4, 5], 6).reshape(3, 6, 1)
    found = agreement(parts, np.ones((3, 6, 1)), GRID)
    # 5 of 7 neighbours agree; of the 8 others only the two diagonals of the left block.
    assert (found.near, found.apart) == pytest.approx((5 / 7, 2 / 8)) and found.local > 2
    none = agreement(np.zeros((1, 6, 1), int), np.zeros((1, 6, 1)), GRID)
    assert all(map(math.isnan, astuple(none)))


def test_precision_by_hand():
    scores = np.array([[[0.6, 0.2], [0.5, 0.5], [0.3, -1.0], [-1.0, -1.0]]])
    right = np.array([[[True, False], [False, True], [True, True], [True, True]]])
    # top 1, top n (a dropped label is neither right nor wrong), drawn, labelled
    for of, expected in [
        ([True, True, True, True], (2 / 3, 3 / 5, (0.75 + 0.5 + 1) / 3, 3 / 4)),
        ([False, True, False, True], (0.0, 0.5, 0.5, 0.5)),
        ([False, False, False, False], (math.nan,) * 4),
    ]:
        found = precision(right, scores, np.array([of]))
        assert astuple(found) == pytest.approx(expected, nan_ok=True)


def test_mosaics_are_the_left_of_one_and_the_right_of_the_next():
    pixels = torch.arange(3.0)[:, None, None, None].expand(3, 3, 8, 12)
    mosaics = make_mosaics(pixels, GRID)
    assert mosaics.shape == (2, 3, 8, 12)
    for number, mosaic in enumerate(mosaics):
        assert (mosaic[..., :4] == number).all() and (mosaic[..., 4:] == number + 1).all()


def planted_mosaics(seed, mosaics=7):
    ids, scores = planted(seed, mosaics)
    rng = np.random.default_rng(seed)
    draw = [np.flatnonzero(rng.random(WORDS) < 0.4) for _ in range(mosaics + 1)]
    return ids, draw_chances(scores), draw[:-1], draw[1:]


def naive_place(ids, chances, left, right):
    own_sum = other_sum = 0.0
    recalls = []
    for i in range(len(ids)):
        alone = (set(left[i]) - set(right[i]), set(right[i]) - set(left[i]))
        for own, words in enumerate(alone):
            best = {w: [0.0, 0.0] for w in words}
            for half, patches in enumerate(([0, 3], [1, 2, 4, 5])):
                for p in patches:
                    for label, chance in zip(ids[i, p], chances[i, p], strict=True):
                        if label in words:
                            best[label][half] = max(best[label][half], chance)
                            own_sum += chance * (half == own)
                            other_sum += chance * (half != own)
            if words:
                recalls.append(np.mean([b[own] - b[1 - own] for b in best.values()]))
    return own_sum / other_sum, np.mean(recalls), np.std(recalls, ddof=1) / len(recalls) ** 0.5


@pytest.mark.parametrize("seed", range(4))
def test_place_equals_a_loop_over_every_label(seed):
    mosaics = planted_mosaics(seed)
    found = measure_place(*mosaics[:2], GRID, *mosaics[2:])
    assert (found.lift, found.recall, found.recall_error) == pytest.approx(naive_place(*mosaics))


def test_lift_error_is_that_of_a_bootstrap():
    ids, chances, left, right = planted_mosaics(9, mosaics=120)
    found = measure_place(ids, chances, GRID, left, right)
    rng, lifts = np.random.default_rng(0), []
    for _ in range(60):
        rows = rng.integers(0, 120, 120)
        picked = ([left[i] for i in rows], [right[i] for i in rows])
        lifts.append(measure_place(ids[rows], chances[rows], GRID, *picked).lift)
    assert found.lift_error == pytest.approx(np.std(lifts), rel=0.3)


def labels(left_word, right_word):
    ids = np.full((4, 6, 1), right_word)
    ids[:, [0, 3]] = left_word
    return ids


BOTH = np.tile([1, 2], (4, 6, 1))  # two and four patches, the same share of each half


@pytest.mark.parametrize(
    ("ids", "captions", "lift", "recall"),
    [
        (labels(1, 2), ([1, 7], [2, 7]), math.inf, 1.0),  # 7 is in both: it says nothing
        (labels(2, 1), ([1, 7], [2, 7]), 0.0, -1.0),
        (BOTH, ([1, 7], [2, 7]), 1.0, 0.0),
        (labels(7, 7), ([1, 7], [2, 7]), math.nan, 0.0),
        (labels(1, 2), ([], []), math.nan, math.nan),
    ],
    ids=["in place", "swapped", "everywhere", "words of both", "no words"],
)
def test_place_by_hand(ids, captions, lift, recall):
    left, right = ([np.array(words, int)] * 4 for words in captions)
    found = measure_place(ids, draw_chances(np.ones(ids.shape)), GRID, left, right)
    assert (found.lift, found.recall) == pytest.approx((lift, recall), nan_ok=True)
