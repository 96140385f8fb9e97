"""Drawing pairs: the distribution of eq. 9, windows, repeatability, one patch per label."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llava_sea.alignment import keep_one_per_label, num_windows, sample_pairs


def draw(ids, scores, grid=(4, 4), window=2, seed=0, epoch=0, record=0):
    return sample_pairs(ids, scores, grid, window=window, seed=seed, epoch=epoch, record=record)


def test_labels_are_drawn_in_proportion_to_their_scores():
    ids = np.array([[7, 3, 9]], dtype=np.uint32)
    scores = np.array([[0.6, 0.3, 0.0]], dtype=np.float16)
    labels = [int(draw(ids, scores, (1, 1), 1, record=n).label_K[0]) for n in range(6000)]
    share = labels.count(7) / len(labels)
    assert 9 not in labels
    assert abs(share - 2 / 3) < 4 * np.sqrt(2 / 9 / 6000)


def test_each_patch_of_a_window_is_drawn_equally_often():
    ids = np.arange(16, dtype=np.uint32)[:, None]
    scores = np.ones((16, 1), np.float16)
    counts = np.zeros(16)
    for record in range(3000):
        pairs = draw(ids, scores, record=record)
        assert len(pairs.patch_K) == 4
        counts[pairs.patch_K] += 1
    assert np.abs(counts / 3000 - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / 3000)


def slow_draw(ids, scores, grid, window, seed, epoch, record):
    """Windows and labels one by one, from the same random numbers."""
    rng = np.random.default_rng([seed, epoch, record])
    lots, columns, patches = rng.random(len(ids)), grid[1], {}
    for patch in range(len(ids)):
        block = (patch // columns // window, patch % columns // window)
        if any(float(score) > 0 for score in scores[patch]):
            patches.setdefault(block, []).append(patch)
    chosen = [max(patches[block], key=lambda p: lots[p]) for block in sorted(patches)]
    labels = []
    for patch, share in zip(chosen, rng.random(len(chosen)), strict=True):
        ends = np.cumsum([max(0.0, float(score)) for score in scores[patch]])
        labels.append(
            next(int(ids[patch][n]) for n in range(len(ends)) if ends[n] > share * ends[-1])
        )
    return chosen, labels, rng.integers(0, 2**62, len(chosen)).tolist()


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    labels=st.integers(1, 3),
    window=st.integers(1, 4),
    holes=st.floats(0, 1),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    seed=st.integers(0, 1000),
)
def test_draws_are_the_slow_twin_s(rows, columns, labels, window, holes, dtype, seed):
    rng = np.random.default_rng(seed)
    scores = rng.normal(0.3, 0.5, (rows * columns, labels)).astype(dtype)
    scores[rng.random(scores.shape) < holes] = rng.choice([0.0, -0.0])
    ids = rng.integers(0, 50, scores.shape, dtype=np.uint32)
    found = draw(ids, scores, (rows, columns), window, seed=seed, epoch=2, record=3)
    expected = slow_draw(ids, scores, (rows, columns), window, seed, 2, 3)
    assert tuple(values.tolist() for values in found) == expected
    assert len(found.patch_K) <= num_windows((rows, columns), window)
    assert {values.dtype for values in found} == {np.dtype(np.int64)}


def test_the_last_windows_of_an_odd_grid_are_narrower():
    assert num_windows((27, 27), 2) == 196
    assert num_windows((24, 24), 2) == 144


def test_draws_repeat_and_differ_by_epoch_record_and_seed():
    rng = np.random.default_rng(1)
    ids = rng.integers(0, 1000, (64, 10), dtype=np.uint32)
    scores = rng.random((64, 10)).astype(np.float16)
    first = draw(ids, scores, (8, 8))
    again = draw(ids, scores, (8, 8))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    for change in ({"epoch": 1}, {"record": 1}, {"seed": 1}):
        assert (draw(ids, scores, (8, 8), **change).key_K != first.key_K).any()


@pytest.mark.parametrize("score", [np.nan, -np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scores_that_are_no_numbers_are_refused(score, dtype):
    scores = np.full((16, 2), 0.5, dtype)
    scores[5, 1] = score
    with pytest.raises(ValueError, match=r"record 3: a score is"):
        draw(np.zeros(scores.shape, np.uint32), scores, record=3)
    scores[5, 1] = -np.inf  # not above 0: no label
    ids = np.arange(32, dtype=np.uint32).reshape(16, 2)
    for record in range(50):
        assert 11 not in draw(ids, scores, record=record).label_K


def test_wrong_grid_is_refused():
    with pytest.raises(ValueError, match="3 x 3"):
        draw(np.zeros((8, 1), np.uint32), np.zeros((8, 1)), (3, 3))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.booleans()), max_size=30))
def test_smallest_key_of_the_valid_pairs_stays(rows):
    label_N = torch.tensor([r[0] for r in rows], dtype=torch.long)
    key_N = torch.tensor([r[1] for r in rows], dtype=torch.long)
    valid_N = torch.tensor([r[2] for r in rows], dtype=torch.bool)
    winners = {}
    for n, (label, key, valid) in enumerate(rows):
        if valid and (label not in winners or key < winners[label][0]):
            winners[label] = (key, n)
    expected = sorted(n for _, n in winners.values())
    assert keep_one_per_label(label_N, key_N, valid_N).nonzero().flatten().tolist() == expected
