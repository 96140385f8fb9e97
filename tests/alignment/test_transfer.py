"""Labels of one grid for another: a case worked out by hand, and a slow twin."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_equal_grids_are_taken_one_to_one():
    rng = np.random.default_rng(1)
    ids, scores = rng.integers(0, 99, (12, 4)), rng.normal(size=(12, 4)).astype(np.float32)
    found_ids, found_scores = transfer_labels(ids, scores, grid_overlap((3, 4), (3, 4)))
    np.testing.assert_array_equal(found_ids, ids)
    np.testing.assert_array_equal(found_scores, scores)  # negative ones too: sampling drops them


@pytest.mark.parametrize("score", [np.nan, np.inf])
@pytest.mark.parametrize("target", [(2, 2), (3, 3)], ids=["one to one", "resampled"])
def test_scores_that_are_no_numbers_are_refused(score, target):
    scores = np.array([[0.5], [score], [0.5], [0.5]], np.float16)
    with pytest.raises(ValueError, match="a score is"):
        transfer_labels(np.ones((4, 1), np.uint32), scores, grid_overlap((2, 2), target))


def slow_rows(ids, scores, overlap):
    """Each target's words by a dictionary, best first, ties by id."""
    found = []
    for sources, shares in zip(overlap.source_QK, overlap.share_QK, strict=True):
        total: dict[int, float] = {}
        for source, share in zip(sources, shares, strict=True):
            for word, score in zip(ids[source].tolist(), scores[source].tolist(), strict=True):
                total[word] = total.get(word, 0.0) + share * max(0.0, score)
        rows = [(-np.float32(score), word) for word, score in total.items() if score > 0]
        found.append([(word, -score) for score, word in sorted(rows)[: ids.shape[1]]])
    return found


@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    target_rows=st.integers(1, 5),
    target_columns=st.integers(1, 5),
    labels=st.integers(1, 4),
    num_words=st.sampled_from([1, 3, 2**32 - 1]),
    seed=st.integers(0, 1000),
)
def test_float16_scores_and_large_ids_as_the_slow_twin(
    rows, columns, target_rows, target_columns, labels, num_words, seed
):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, num_words, (rows * columns, labels), dtype=np.uint32)
    scores = np.maximum(rng.choice([-1, 0.0, 0.25, 0.5, 0.3], ids.shape), 0).astype(np.float16)
    overlap = grid_overlap((rows, columns), (target_rows, target_columns))
    found_ids, found_scores = transfer_labels(ids, scores, overlap)
    labelled = overlap.labelled((scores > 0).any(1))
    assert labelled.tolist() == (found_scores > 0).any(1).tolist()
    some = np.flatnonzero(labelled)
    for part, kept in ((overlap, np.arange(len(labelled))), (overlap.of(some), some)):
        some_ids, some_scores = transfer_labels(ids, scores, part)
        np.testing.assert_array_equal(some_ids, found_ids[kept])
        np.testing.assert_array_equal(some_scores, found_scores[kept])
    if not overlap.one_to_one:
        for patch, expected in enumerate(slow_rows(ids, scores, overlap)):
            kept = found_scores[patch] > 0
            found = zip(found_ids[patch][kept].tolist(), found_scores[patch][kept], strict=True)
            assert list(found) == expected
            assert not found_ids[patch][~kept].any()


def test_an_image_without_a_label_is_resampled_to_none():
    overlap = grid_overlap((2, 2), (3, 3))
    none = overlap.of(np.flatnonzero(overlap.labelled(np.zeros(4, bool))))
    ids, scores = transfer_labels(np.ones((4, 2), np.uint32), np.zeros((4, 2), np.float16), none)
    assert ids.shape == scores.shape == (0, 2)
