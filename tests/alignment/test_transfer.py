"""Labels of one grid for another: a case worked out by hand, and a slow twin."""

import numpy as np
import pytest

from llava_sea.alignment.transfer import grid_overlap, transfer_labels

GRIDS = [((3, 3), (2, 2)), ((24, 24), (16, 16)), ((16, 16), (27, 27)), ((4, 6), (3, 4))]


def slow_shares(source, target):
    """Areas of intersections on a raster fine enough for both grids."""
    fine = np.lcm(source, target)
    rows, columns = (np.arange(f) for f in fine)
    of = []
    for grid in (source, target):
        row, column = rows * grid[0] // fine[0], columns * grid[1] // fine[1]
        of.append((row[:, None] * grid[1] + column).reshape(-1))
    shares = np.zeros((target[0] * target[1], source[0] * source[1]))
    np.add.at(shares, (of[1], of[0]), 1)
    return shares / shares.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("source", "target"), GRIDS)
def test_shares_are_those_of_the_areas(source, target):
    overlap = grid_overlap(source, target)
    shares = np.zeros((target[0] * target[1], source[0] * source[1]))
    np.add.at(shares, (np.arange(len(shares))[:, None], overlap.source_QK), overlap.share_QK)
    np.testing.assert_allclose(shares, slow_shares(source, target), atol=1e-12)


def test_a_case_by_hand():
    # 3 patches in a row become 2: each new one covers a whole old one and half of the middle one.
    overlap = grid_overlap((1, 3), (1, 2))
    ids = np.array([[7, 3], [3, 5], [9, 0]])
    scores = np.array([[0.6, 0.3], [0.9, 0.3], [0.4, -0.2]], np.float32)
    found_ids, found_scores = transfer_labels(ids, scores, overlap)
    # left: 7 with 2/3 * .6 = .4; 3 with 2/3 * .3 + 1/3 * .9 = .5; 5 with .1 is cut (N = 2)
    # right: 3 with .3; 9 with 2/3 * .4 = .267; 5 with .1 is cut; 0 has no positive score
    assert found_ids.tolist() == [[3, 7], [3, 9]]
    np.testing.assert_allclose(found_scores, [[0.5, 0.4], [0.3, 0.8 / 3]], rtol=1e-6)


@pytest.mark.parametrize(("source", "target"), GRIDS)
def test_scores_add_up_as_the_slow_twin(source, target):
    rng = np.random.default_rng(0)
    count = source[0] * source[1]
    ids = rng.integers(0, 12, (count, 3))
    scores = rng.normal(0.2, 0.3, (count, 3)).astype(np.float32)
    found_ids, found_scores = transfer_labels(ids, scores, grid_overlap(source, target))
    for patch, shares in enumerate(slow_shares(source, target)):
        total = np.zeros(12)
        for q in range(count):
            for word, score in zip(ids[q], scores[q], strict=True):
                total[word] += shares[q] * max(0.0, score)
        best = sorted((w for w in range(12) if total[w] > 0), key=lambda w: (-total[w], w))[:3]
        kept = found_scores[patch] > 0
        np.testing.assert_allclose(found_scores[patch][kept], total[best], rtol=1e-5)
        assert found_ids[patch][kept].tolist() == best


def test_equal_grids_are_taken_one_to_one():
    rng = np.random.default_rng(1)
    ids, scores = rng.integers(0, 99, (12, 4)), rng.normal(size=(12, 4)).astype(np.float32)
    found_ids, found_scores = transfer_labels(ids, scores, grid_overlap((3, 4), (3, 4)))
    np.testing.assert_array_equal(found_ids, ids)
    np.testing.assert_array_equal(found_scores, scores)  # negative ones too: sampling drops them


def test_a_patch_without_labels_stays_without():
    ids = np.array([[1, 2], [3, 4], [5, 6]])
    scores = np.full((3, 2), -0.1, np.float32)
    _, found = transfer_labels(ids, scores, grid_overlap((1, 3), (1, 2)))
    assert not found.any()
