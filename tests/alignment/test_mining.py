"""Mining against a full sort of all scores: ids, scores, ties, odd sizes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_sea.alignment import mine_top_words


def full_sort(patches_MD, words_QD, top_n, sign):
    scores_MQ = (sign * (patches_MD.double() @ words_QD.double().T)).numpy()
    order = np.lexsort(
        (np.broadcast_to(np.arange(scores_MQ.shape[1]), scores_MQ.shape), -scores_MQ)
    )
    order = order[:, :top_n]
    return order, np.take_along_axis(scores_MQ, order, 1)


@settings(max_examples=40, deadline=None)
@given(
    num_patches=st.integers(1, 7),
    num_words=st.integers(1, 3000),
    top_n=st.integers(1, 12),
    sign=st.sampled_from([-1, 1]),
    block=st.sampled_from([128, 300, 2048, 16384]),
    levels=st.sampled_from([2, 5]),
    seed=st.integers(0, 2**16),
)
def test_equals_a_full_sort_with_many_ties(
    num_patches, num_words, top_n, sign, block, levels, seed
):
    # Small integers: every product is exact, and ties abound.
    rng = torch.Generator().manual_seed(seed)
    patches_MD = torch.randint(-levels, levels + 1, (num_patches, 3), generator=rng).float()
    words_QD = torch.randint(-levels, levels + 1, (num_words, 3), generator=rng).float()
    ids, scores = mine_top_words(patches_MD, words_QD, top_n, sign=sign, block=block)
    expected_ids, expected_scores = full_sort(patches_MD, words_QD, top_n, sign)
    np.testing.assert_array_equal(ids.numpy(), expected_ids)
    np.testing.assert_array_equal(scores.numpy(), expected_scores)


def test_real_values_agree_with_a_full_sort():
    rng = torch.Generator().manual_seed(0)
    patches_MD = torch.nn.functional.normalize(torch.randn(40, 32, generator=rng), dim=1)
    words_QD = torch.nn.functional.normalize(torch.randn(9001, 32, generator=rng), dim=1)
    ids, scores = mine_top_words(patches_MD, words_QD, 10, sign=-1, block=2048)
    expected_ids, expected_scores = full_sort(patches_MD, words_QD, 10, -1)
    np.testing.assert_array_equal(ids.numpy(), expected_ids)
    np.testing.assert_allclose(scores.numpy(), expected_scores, atol=1e-6)


def test_negative_zero_ties_with_zero():
    words_QD = torch.zeros(2000, 1)
    words_QD[:500] = -0.0
    ids, _ = mine_top_words(torch.ones(1, 1), words_QD, 3)
    assert ids.tolist() == [[0, 1, 2]]


def test_no_words_and_bad_arguments():
    ids, scores = mine_top_words(torch.ones(2, 3), torch.ones(0, 3), 4)
    assert ids.shape == scores.shape == (2, 0)
    with pytest.raises(ValueError, match="same number of columns"):
        mine_top_words(torch.ones(2, 3), torch.ones(5, 4), 1)
    with pytest.raises(ValueError, match="top_n"):
        mine_top_words(torch.ones(2, 3), torch.ones(5, 3), 0)
