import math
from dataclasses import astuple

import numpy as np
import pytest

from llava_sea.alignment import sample_pairs
from llava_sea.labels.drawing import Agreement, agreement, draw_chances, neighbour_pairs, precision

GRID = (2, 3)


def planted(seed, images=4, labels=3, words=6):
    rng = np.random.default_rng(seed)
    ids = np.stack(
        [[rng.permutation(words)[:labels] for _ in range(GRID[0] * GRID[1])] for _ in range(images)]
    )
    scores = rng.normal(0.3, 1, ids.shape)
    scores[0, 1] = -1.0  # a patch without a label
    return ids, scores


def test_chances_are_shares_of_the_positive_scores():
    chances = draw_chances(np.array([[0.6, 0.2, 0.0], [0.3, -5.0, -0.1], [-1.0, 0.0, -2.0]]))
    np.testing.assert_allclose(chances, [[0.75, 0.25, 0], [1, 0, 0], [0, 0, 0]])


def test_chances_are_those_of_the_sampler():
    ids, scores = planted(0)
    draws = 4000
    counts = np.zeros(ids[1].shape)
    for record in range(draws):
        pairs = sample_pairs(ids[1], scores[1], GRID, window=1, seed=0, epoch=0, record=record)
        for patch, label in zip(pairs.patch_K, pairs.label_K, strict=True):
            counts[patch, list(ids[1][patch]).index(label)] += 1
    np.testing.assert_allclose(counts / draws, draw_chances(scores[1]), atol=0.04)


def test_neighbours_share_a_side():
    wanted = {(0, 1), (1, 2), (3, 4), (4, 5), (0, 3), (1, 4), (2, 5)}
    assert {tuple(pair) for pair in neighbour_pairs(GRID).tolist()} == wanted


def naive_agreement(ids, scores):
    chances = draw_chances(scores)
    found = {"near": [], "apart": [], "elsewhere": []}
    patches = [(i, p) for i in range(len(ids)) for p in range(6) if chances[i, p].any()]
    for one, (i, p) in enumerate(patches):
        for j, q in patches[one + 1 :]:
            same = sum(
                chances[i, p, a] * chances[j, q, b]
                for a in range(ids.shape[-1])
                for b in range(ids.shape[-1])
                if ids[i, p, a] == ids[j, q, b]
            )
            step = abs(p // 3 - q // 3) + abs(p % 3 - q % 3)
            found["elsewhere" if i != j else "near" if step == 1 else "apart"].append(same)
    return {kind: np.mean(values) for kind, values in found.items()}


@pytest.mark.parametrize("seed", range(3))
def test_agreement_equals_all_pairs_one_by_one(seed):
    ids, scores = planted(seed)
    found = agreement(ids, draw_chances(scores), GRID, 6)
    assert {kind: getattr(found, kind) for kind in ("near", "apart", "elsewhere")} == pytest.approx(
        naive_agreement(ids, scores)
    )


def test_labels_of_the_whole_image_agree_and_are_not_local():
    """Image i says word i everywhere; then its left two columns say 4 and the right one 5."""
    whole = np.repeat(np.arange(3), 6).reshape(3, 6, 1)
    found = agreement(whole, np.ones((3, 6, 1)), GRID, 6)
    assert found == Agreement(1.0, 1.0, 0.0, 1.0)
    parts = np.tile([4, 4, 5], 6).reshape(3, 6, 1)
    found = agreement(parts, np.ones((3, 6, 1)), GRID, 6)
    # 5 of 7 neighbours agree; of the 8 others only the two diagonals of the left block.
    assert (found.near, found.apart) == pytest.approx((5 / 7, 2 / 8)) and found.local > 2


def test_no_pairs_are_no_number():
    found = agreement(np.zeros((1, 6, 1), int), np.zeros((1, 6, 1)), GRID, 2)
    assert all(map(math.isnan, astuple(found)))


def test_precision_by_hand():
    scores = np.array([[[0.6, 0.2], [0.5, 0.5], [0.3, -1.0], [-1.0, -1.0]]])
    right = np.array([[[True, False], [False, True], [True, True], [True, True]]])
    found = precision(right, scores, np.ones((1, 4), bool))
    assert found.top1 == pytest.approx(2 / 3)
    assert found.top_n == pytest.approx(3 / 5)  # a dropped label is neither right nor wrong
    assert found.sampled == pytest.approx((0.75 + 0.5 + 1) / 3)
    assert found.labelled == pytest.approx(3 / 4)
    some = precision(right, scores, np.array([[False, True, False, True]]))
    assert astuple(some) == pytest.approx((0.0, 0.5, 0.5, 0.5))
    assert all(map(math.isnan, astuple(precision(right, scores, np.zeros((1, 4), bool)))))
