"""Nearest word, modality gap and TACS on cases worked out by hand and against plain loops."""

import numpy as np
import pytest
import scipy.linalg
import torch

from llava_sea.alignment import modality_integration_rate, nearest_words, tacs


def test_nearest_word_by_cosine_and_gap_by_distance_are_minimised_apart():
    words = torch.tensor([[10.0, 0.0], [0.0, 1.0]])
    found = nearest_words(torch.tensor([[1.0, 0.1]]), words)
    assert found.ids_N.tolist() == [0]  # the direction of word 0 ...
    expected = (torch.tensor([1.0, 0.1]) - words[1]).norm()
    torch.testing.assert_close(found.distance_N[0], expected)  # ... but word 1 is nearer


@pytest.mark.parametrize("block", [1, 7, 4096])
def test_blocks_do_not_change_the_result(block):
    rng = torch.Generator().manual_seed(0)
    visual, words = torch.randn(5, 8, generator=rng), torch.randn(40, 8, generator=rng)
    found = nearest_words(visual, words, block=block)
    for n in range(5):
        cosines = [torch.cosine_similarity(visual[n], w, dim=0) for w in words]
        assert int(found.ids_N[n]) == int(torch.stack(cosines).argmax())
        torch.testing.assert_close(found.cosine_N[n], max(cosines), atol=1e-5, rtol=1e-5)
        nearest = min((visual[n] - w).norm() for w in words)
        torch.testing.assert_close(found.distance_N[n], nearest, atol=1e-4, rtol=1e-4)
    blocks = [words[:0], *words.split(13), words[:0]]
    from_blocks = nearest_words(visual, iter([blocks[0], blocks[1], words[:0], *blocks[2:]]))
    assert from_blocks.ids_N.tolist() == found.ids_N.tolist()


def test_the_gap_grows_with_the_lengths_and_the_one_between_unit_vectors_does_not():
    rng = torch.Generator().manual_seed(1)
    visual, words = torch.randn(6, 8, generator=rng), torch.randn(50, 8, generator=rng)
    found, longer = nearest_words(visual, words), nearest_words(10 * visual, 3 * words)
    for n in range(6):
        near = min((visual[n] / visual[n].norm() - w / w.norm()).norm() for w in words)
        torch.testing.assert_close(found.unit_distance_N[n], near, atol=1e-4, rtol=1e-4)
    assert longer.distance_N.mean() > 5 * found.distance_N.mean()
    torch.testing.assert_close(longer.unit_distance_N, found.unit_distance_N, atol=1e-4, rtol=1e-4)


def test_words_themselves_have_gap_zero():
    words = torch.eye(4)
    found = nearest_words(words, words)
    torch.testing.assert_close(found.distance_N, torch.zeros(4))
    torch.testing.assert_close(found.unit_distance_N, torch.zeros(4))


@pytest.mark.parametrize("words", [iter([]), torch.ones(0, 2), [torch.ones(0, 2)] * 2])
def test_no_word_is_an_error(words):
    with pytest.raises(ValueError, match="at least one word"):
        nearest_words(torch.ones(1, 2), words)


@pytest.mark.parametrize(("patches", "tokens"), [(0, 3), (3, 0)])
def test_no_token_is_an_error(patches, tokens):
    with pytest.raises(ValueError, match=f"got {patches} and {tokens}"):
        tacs(torch.ones(patches, 2), torch.ones(tokens, 2))


def test_tacs_by_hand():
    visual = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])
    caption = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    # largest cosines: 1, 1/sqrt(2), 0
    torch.testing.assert_close(tacs(visual, caption, k=2), torch.tensor((1 + 0.5**0.5) / 2))
    torch.testing.assert_close(tacs(visual, caption, k=10), torch.tensor((1 + 0.5**0.5) / 3))


def mir_in_numpy(layers):
    """As the paper has it, with scipy's square root of a matrix."""
    total = 0.0
    for visual, text in layers:
        mean_length = np.mean([np.linalg.norm(row) for row in text])
        kinds = []
        for tokens in (visual / mean_length, text / mean_length):
            lengths = np.linalg.norm(tokens, axis=1)
            middle = np.sort(lengths)[(len(lengths) - 1) // 2]  # torch's median: the lower one
            token = np.sort(tokens, axis=0)[(len(tokens) - 1) // 2]
            far = np.abs(lengths - middle) > 3 * lengths.std(ddof=1)
            kinds.append(np.where(far[:, None], token, tokens))
        a, b = kinds
        cov_a, cov_b = np.cov(a.T), np.cov(b.T)
        root = scipy.linalg.sqrtm(cov_a @ cov_b).real
        total += ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    return np.log10(total)


def test_mir_equals_a_twin_in_numpy_and_outliers_are_replaced():
    rng = np.random.default_rng(0)
    layers = [(rng.normal(size=(60, 6)) + k, 2 * rng.normal(size=(80, 6))) for k in range(3)]
    layers[1][0][7] *= 50
    found = modality_integration_rate((torch.tensor(v), torch.tensor(t)) for v, t in layers)
    np.testing.assert_allclose(found, mir_in_numpy(layers), rtol=1e-6)


def test_mir_falls_as_modalities_meet_and_does_not_feel_a_common_scale():
    rng = torch.Generator().manual_seed(0)
    text, visual = (torch.randn(200, 8, generator=rng) for _ in range(2))
    far, near = (modality_integration_rate([(visual + by, text)]) for by in (4.0, 0.5))
    assert near < far - 1
    again = modality_integration_rate([(7 * (visual + 4.0), 7 * text)])
    assert again == pytest.approx(far, abs=1e-5)


@pytest.mark.parametrize(
    ("layers", "said"),
    [([], "one layer"), ([(torch.ones(1, 2), torch.ones(5, 2))], "got 1 visual")],
)
def test_mir_of_too_little_is_an_error(layers, said):
    with pytest.raises(ValueError, match=said):
        modality_integration_rate(layers)
