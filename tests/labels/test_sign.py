import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from llava_sea.errors import UserError
from llava_sea.labels.occurrence import find_occurrences
from llava_sea.labels.sign import choose_sign, finite, format_table, measure_sign

NUM_WORDS, DIM, PATCHES = 200, 48, 12


def test_occurrences_are_whole_words_in_sequence():
    captions = ["A wooden Table, set for two.", "tables and a T-shirt", "", "table wooden"]
    words = ["table", "wooden table", "t shirt", "set", "tables", "t-shirt", "two", "absent"]
    found = [[words[i] for i in ids] for ids in find_occurrences(captions, words)]
    assert found == [
        ["table", "wooden table", "set", "two"],
        ["t shirt", "tables", "t-shirt"],
        [],
        ["table"],
    ]


def planted(seed, alpha, images=120, hub=0.3):
    """A toy encoder: a patch is alpha * its word + a shared offset + noise."""
    rng = torch.Generator().manual_seed(seed)
    words_QD = F.normalize(torch.randn(NUM_WORDS, DIM, generator=rng), dim=-1)
    offset_D = hub * F.normalize(torch.randn(DIM, generator=rng), dim=-1)
    true_IP = torch.randint(NUM_WORDS, (images, 3), generator=rng)
    shown_IP = true_IP.repeat_interleave(PATCHES // 3, 1)
    noise = torch.randn(images, PATCHES, DIM, generator=rng) / math.sqrt(DIM)
    patches = F.normalize(alpha * words_QD[shown_IP] + offset_D + noise, dim=-1)
    words = [f"word{i}" for i in range(NUM_WORDS)]
    captions = ["a photo of " + " and ".join(words[i] for i in row) for row in true_IP.tolist()]
    return patches, captions, words, words_QD


def batches(patches, size=7):
    return list(zip(torch.arange(len(patches)).split(size), patches.split(size), strict=True))


def measure(seed, alpha, **kwargs):
    patches, captions, words, words_QD = planted(seed, alpha, **kwargs)
    return measure_sign(batches(patches), captions, words, words_QD, top_n=5)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("seed", range(4))
def test_planted_encoder_is_recovered_with_both_signs(seed, sign):
    report = measure(seed, sign * 0.8)
    assert choose_sign(report) == sign
    winner, loser = (report.plus, report.minus)[::sign]
    assert winner.lift > 3 and winner.clear > 5 and loser.lift < 1.5


@pytest.mark.parametrize("seed", range(8))
def test_encoder_that_holds_nothing_is_refused_with_the_numbers(seed):
    report = measure(seed, 0.0)
    with pytest.raises(UserError, match="neither sign") as caught:
        choose_sign(report)
    title, _, plus, minus = format_table(report).splitlines()[:4]
    assert "120 images" in title and plus.startswith("+1") and minus.startswith("-1")
    assert "Ways out" in str(caught.value) and format_table(report) in str(caught.value)


def test_captions_without_any_word_of_the_list_are_refused():
    patches, _, words, words_QD = planted(0, 0.8, images=20)
    report = measure_sign(batches(patches), ["nothing known"] * 20, words, words_QD, top_n=5)
    with pytest.raises(UserError, match="neither sign"):
        choose_sign(report)


def test_signs_that_cannot_be_told_apart_are_refused():
    """Half of the patches speak with each sign."""
    patches, captions, words, words_QD = planted(0, 0.8)
    shift = planted(0, 0.8, hub=0.0)[0]
    patches[:, ::2] = -shift[:, ::2]
    patches[:, 1::2] = shift[:, 1::2]
    report = measure_sign(batches(patches), captions, words, words_QD, top_n=5)
    with pytest.raises(UserError, match="neither fits clearly better"):
        choose_sign(report)


@pytest.mark.parametrize("sign", [1, -1])
def test_numbers_equal_a_naive_count(sign):
    patches, captions, words, words_QD = planted(3, 0.5, images=15)
    report = measure_sign(batches(patches), captions, words, words_QD, top_n=5)
    found = report.plus if sign == 1 else report.minus
    own, other, covered, counts = [], [], 0, np.zeros(NUM_WORDS)
    labels_IPN = (sign * patches @ words_QD.T).topk(5).indices.tolist()
    for i, rows in enumerate(labels_IPN):
        flat = [words[w] for row in rows for w in row]
        hits = [[w in caption.split() for w in flat] for caption in captions]
        own.append(np.mean(hits[i]))
        other.append(np.mean([hits[j] for j in range(15) if j != i]))
        counts += np.bincount(np.ravel(rows), minlength=NUM_WORDS)
    hubs = set(np.argsort(-counts, kind="stable")[: NUM_WORDS // 100])
    covered = np.mean([bool(hubs & set(row)) for rows in labels_IPN for row in rows])
    assert found.own_rate == pytest.approx(np.mean(own))
    assert found.other_rate == pytest.approx(np.mean(other))
    assert found.lift == pytest.approx(np.mean(own) / np.mean(other))
    assert found.hub_cover == pytest.approx(covered)
    assert found.kept == 1.0
    cosines = patches @ words_QD.T
    assert report.negative_share == pytest.approx((cosines < 0).float().mean().item())


def test_dropped_labels_do_not_count():
    """All cosines positive: the negated sign keeps nothing and cannot win."""
    words_QD = F.normalize(torch.rand(40, 8) + 0.1, dim=-1)
    patches = words_QD[torch.arange(60).view(30, 2) % 40]
    words = [f"word{i}" for i in range(40)]
    captions = [f"word{2 * i % 40} word{(2 * i + 1) % 40}" for i in range(30)]
    report = measure_sign(batches(patches), captions, words, words_QD, top_n=2)
    assert report.minus.kept == 0.0 and math.isnan(report.minus.lift)
    assert report.negative_share == 0.0
    assert choose_sign(report) == 1
    assert finite(asdict(report))["minus"]["lift"] is None


def test_one_caption_is_too_few():
    patches, captions, words, words_QD = planted(0, 0.8, images=1)
    with pytest.raises(UserError, match="force it"):
        measure_sign(batches(patches), captions, words, words_QD, top_n=5)


def test_images_may_be_left_out():
    patches, captions, words, words_QD = planted(0, 0.8)
    kept = [i for i in range(120) if i % 5]
    report = measure_sign([(kept, patches[kept])], captions, words, words_QD, top_n=5)
    assert report.num_images == 96 and choose_sign(report) == 1
