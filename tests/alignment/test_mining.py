"""The miner against a float64 sort: every screen, ties, odd sizes, bounds that hold."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from llava_sea.alignment import mine_top_words, mining
from llava_sea.alignment.mining import bucket_candidates, bucket_maxima, largest
from llava_sea.alignment.mining_bounds import (
    exact_float32,
    patch_bounds,
    prepare_words,
    screen_cuts,
)

PRECISIONS = ("float32", "bfloat16")


def check(patches_MD, words_QD, top_n, sign=1, **options):
    """Compare with float64 products, rounded to float32 once, sorted by (-score, id)."""
    scores_MQ = sign * (patches_MD.double() @ words_QD.double().T).float().numpy()
    ids_MQ = np.broadcast_to(np.arange(scores_MQ.shape[1]), scores_MQ.shape)
    order = np.lexsort((ids_MQ, -scores_MQ))[:, :top_n]
    ids, scores = mine_top_words(patches_MD, words_QD, top_n, sign=sign, **options)
    np.testing.assert_array_equal(scores.numpy(), np.take_along_axis(scores_MQ, order, 1))
    np.testing.assert_array_equal(ids.numpy(), order)


def features(rows, size, seed, spread=1.0, repeats=1):
    rng = torch.Generator().manual_seed(seed)
    common = torch.randn(size, generator=rng)
    drawn = common + spread * torch.randn(-(-rows // repeats), size, generator=rng)
    return normalize(drawn, dim=1).repeat(repeats, 1)[:rows]


@settings(max_examples=60)
@given(
    precision=st.sampled_from(PRECISIONS),
    num_patches=st.integers(1, 70),
    num_words=st.one_of(st.integers(1, 200), st.integers(201, 4000)),
    size=st.sampled_from([1, 5, 32, 96]),
    top_n=st.integers(1, 20),
    sign=st.sampled_from([-1, 1]),
    spread=st.sampled_from([1e-3, 0.3, 3.0]),
    repeats=st.sampled_from([1, 3, 500]),
    block=st.sampled_from([128, 300, 512, 16384]),
    seed=st.integers(0, 2**16),
)
def test_every_path_equals_a_float64_sort(
    precision, num_patches, num_words, size, top_n, sign, spread, repeats, block, seed
):
    # A small spread makes scores that bfloat16 cannot tell apart, all positive or all negative.
    patches_MD = features(num_patches, size, seed, spread)
    words_QD = features(num_words, size, seed, spread, repeats)
    check(patches_MD, words_QD, top_n, sign, block=block, precision=precision)


@settings(max_examples=20)
@given(st.integers(1, 3000), st.sampled_from([-1, 1]), st.integers(1, 5), st.integers(0, 2**16))
def test_ties_of_small_whole_numbers(num_words, sign, levels, seed):
    rng = torch.Generator().manual_seed(seed)
    patches_MD, words_QD = (
        torch.randint(-levels, levels + 1, (rows, 3), generator=rng).float()
        for rows in (7, num_words)
    )
    check(patches_MD, words_QD, 12, sign)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_equal_words_come_in_the_order_of_their_ids(precision):
    words_QD = features(1, 16, 0).repeat(3000, 1)
    ids_MN, _ = mine_top_words(features(70, 16, 1), words_QD, 12, precision=precision)
    assert ids_MN.tolist() == [list(range(12))] * 70
    zeros_QD = torch.zeros(2000, 1)
    zeros_QD[:500] = -0.0
    assert mine_top_words(torch.ones(1, 1), zeros_QD, 3)[0].tolist() == [[0, 1, 2]]


def test_the_result_does_not_depend_on_block_batch_precision_or_preparation():
    patches_MD, words_QD = features(130, 64, 0), features(5000, 64, 1)
    whole = mine_top_words(patches_MD, words_QD, 10, precision="float32")
    ways = [words_QD, prepare_words(words_QD), prepare_words(words_QD, rounded=False)]
    for precision in PRECISIONS:
        for block, words in zip((128, 1000, 8192), ways, strict=True):
            parts = [
                mine_top_words(part, words, 10, block=block, precision=precision)
                for part in patches_MD.split(57)
            ]
            assert torch.equal(torch.cat([ids for ids, _ in parts]), whole[0])
            assert torch.equal(torch.cat([scores for _, scores in parts]), whole[1])


def test_small_groups_of_patches_change_nothing(monkeypatch):
    monkeypatch.setattr(mining, "_GROUP", 5000)
    monkeypatch.setitem(mining._ROWS, "cpu", 31)
    monkeypatch.setitem(mining._RANKED, "cpu", 7)
    for rescored in (1, 50, 1 << 18):  # one bucket at a time, some, as many as a GPU takes
        monkeypatch.setitem(mining._RESCORED, "cpu", rescored)
        check(features(70, 32, 0), features(3000, 32, 1), 10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_read_as_float32(dtype):
    patches_MD, words_QD = features(70, 32, 0).to(dtype), features(900, 32, 1).to(dtype)
    expected = mine_top_words(patches_MD.float(), words_QD.float(), 5)
    found = mine_top_words(patches_MD, words_QD, 5)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rows_so_short_that_their_squares_vanish(precision):
    patches_MD, words_QD = features(70, 8, 0) * 1e-25, features(300, 8, 1)
    words_QD[::2] *= 1e-24
    check(patches_MD, words_QD, 3, block=512, precision=precision)


@pytest.mark.parametrize(("patches", "words"), [(2, 0), (0, 5)])
def test_nothing_to_mine(patches, words):
    ids, scores = mine_top_words(torch.ones(patches, 3), torch.ones(words, 3), 7)
    assert ids.shape == scores.shape == (patches, words)


def test_what_cannot_be_mined_is_named():
    patches_MD, words_QD = features(5, 8, 0), features(300, 8, 1)
    with pytest.raises(ValueError, match="same number of columns"):
        mine_top_words(patches_MD, words_QD[:, 1:], 1)
    with pytest.raises(ValueError, match="top_n"):
        mine_top_words(patches_MD, words_QD, 0)
    with pytest.raises(ValueError, match="precision"):
        mine_top_words(patches_MD, words_QD, 2, precision="float8")
    with pytest.raises(ValueError, match="patch 0 are not finite, or overflow"):
        mine_top_words(torch.full((1, 1), 1.8e19), torch.full((2, 1), 1.8e19), 1)
    patches_MD[3, 2] = torch.nan
    with pytest.raises(ValueError, match="patch 3"):
        mine_top_words(patches_MD, words_QD, 2)
    words_QD[123, 0] = torch.inf
    for precision in PRECISIONS:
        with pytest.raises(ValueError, match="word 123"):
            mine_top_words(patches_MD[:3], words_QD, 2, precision=precision)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**16),
    size=st.sampled_from([1, 7, 256]),
    rounded=st.booleans(),
    scale=st.sampled_from([1e-3, 1.0, 50.0]),
)
def test_bounds_hold(seed, size, rounded, scale):
    patches_MD, words_QD = scale * features(9, size, seed), features(400, size, seed + 1)
    words = prepare_words(words_QD)
    bounds = patch_bounds(patches_MD, words, rounded)
    exact_MQ = patches_MD.double() @ words_QD.double().T
    screened_MQ = bucket_maxima(patches_MD, words, rounded, bucket=1).double()
    allowed_MQ = bounds.screen_M[:, None] + bounds.output * screened_MQ.abs() * 1.01
    assert ((screened_MQ - exact_MQ).abs() <= allowed_MQ).all()
    if rounded and size == 256:  # not idle: a fifth of it is used
        assert (screened_MQ - exact_MQ).abs().max() > 0.02 * bounds.screen_M.min()
    nth_M = screened_MQ.float().topk(5).values[:, -1]
    low_M, cut_M = screen_cuts(nth_M, bounds)
    best = exact_MQ.topk(5)
    assert (best.values[:, -1] >= low_M).all()
    assert (screened_MQ.gather(1, best.indices) >= cut_M[:, None]).all()


def test_maxima_of_signed_bits():
    scores = torch.randn(6, 40, 8, generator=torch.Generator().manual_seed(0))
    scores[:3] = -scores[:3].abs()
    scores[0, :, 3] = -0.0
    short = scores.bfloat16()
    assert torch.equal(largest(short), short.float().amax(-1).bfloat16())


@pytest.mark.parametrize("rounded", [False, True])
def test_few_candidates_are_left(rounded):
    # Else the screen is right but of no use.
    patches_MD, words_QD = features(100, 256, 0, 3.0), features(20_000, 256, 1, 3.0)
    words = prepare_words(words_QD)
    bounds = patch_bounds(patches_MD, words, rounded)
    maxima_MK = bucket_maxima(patches_MD, words, rounded)
    rows_C, _ = bucket_candidates(patches_MD, words_QD, maxima_MK, bounds, 10)
    assert 1000 <= rows_C.shape[0] < 1050


@pytest.mark.parametrize("allowed", ["highest", "medium"])
def test_float32_is_float32_whatever_is_allowed_outside(allowed):
    patches_MD, words_QD = features(256, 256, 0), features(3000, 256, 1)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(allowed)
    try:
        with exact_float32(patches_MD.device):
            inside_MQ = patches_MD @ words_QD.T
        check(patches_MD, words_QD, 10, precision="float32")
        assert torch.get_float32_matmul_precision() == allowed
    finally:
        torch.set_float32_matmul_precision(before)
    assert (inside_MQ - patches_MD.double() @ words_QD.double().T).abs().max() < 1e-6


@pytest.mark.gpu
def test_on_a_gpu():
    patches_MD, words_QD = features(700, 768, 0).cuda(), features(100_000, 768, 1).cuda()
    ids_MN, scores_MN = mine_top_words(patches_MD, prepare_words(words_QD), 10)
    expected_ids, expected = mine_top_words(patches_MD.cpu(), words_QD.cpu(), 10)
    assert torch.equal(ids_MN.cpu(), expected_ids) and torch.equal(scores_MN.cpu(), expected)
