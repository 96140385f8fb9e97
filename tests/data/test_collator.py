"""Batches have one shape whatever is in them; one pair a label, by the keys."""

import numpy as np
import pytest
import torch

from llava_sea.alignment import PatchWords
from llava_sea.data.collator import Collator
from llava_sea.data.words import WordTokens

P, ROOM = 4, 6
WORDS = WordTokens(
    np.array([[11, 12], [13, -1], [-1, -1], [14, 15]], np.int32),
    np.array([False, False, True, False]),
)


def sample(length, pairs=(), picture=None):
    patch, label, key = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 3).unbind(1)
    ids = torch.arange(1, length + 1)
    out = {
        "input_ids": ids,
        "labels": ids.clone(),
        "image_mask": ids <= (P if picture is not None else 0),
        "sea_patch": patch,
        "sea_label": label,
        "sea_key": key,
    }
    return out if picture is None else {**out, "pixel_values": torch.full((1, 3, 2, 2), picture)}


@pytest.fixture
def collate():
    return Collator(9, (2, 2), P, ROOM, WORDS)


def test_padding(collate):
    batch = collate([sample(6, picture=1.0), sample(3), sample(5, picture=2.0)])
    assert batch["input_ids"].tolist()[1] == [1, 2, 3, 9, 9, 9]
    assert batch["labels"].tolist()[1] == [1, 2, 3, -100, -100, -100]
    assert batch["attention_mask"].tolist()[1:] == [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]]
    assert batch["image_mask"].sum(1).tolist() == [P, 0, P]
    assert batch["image_mask"].dtype == torch.bool
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [1.0, 2.0]


def test_pairs_count_pictures_not_samples(collate):
    batch = collate(
        [
            sample(5, [(0, 0, 50), (3, 1, 40)], picture=1.0),
            sample(3),
            sample(5, [(1, 0, 30), (2, 2, 10), (3, 3, 20)], picture=2.0),
        ]
    )
    words = PatchWords(**batch["sea"])
    assert words.patch_N.tolist() == [0, 3, P + 1, P + 2, P + 3, 0]
    assert words.label_N.tolist() == [0, 1, 0, 2, 3, -1]
    assert words.key_N.tolist() == [50, 40, 30, 10, 20, 0]
    # Label 0 occurs twice, the smaller key stays; label 2 has no tokens; the last one is padding.
    assert words.valid_N.tolist() == [False, True, True, False, True, False]
    assert words.word_U.tolist() == [0, 1, 3]
    assert words.words_UT.tolist() == [[11, 12], [13, -1], [14, 15]]
    assert words.words_UT.dtype == words.word_U.dtype == words.patch_N.dtype == torch.int64


@pytest.mark.parametrize(
    "samples",
    [
        [sample(3), sample(4)],
        [sample(6, picture=1.0)],
        [sample(6, [(0, 2, 5)], picture=1.0)],
        [sample(6, [(n % 4, n % 2, n) for n in range(6)], picture=1.0)],
    ],
    ids=["text only", "no labels", "no usable label", "full"],
)
def test_shapes_do_not_depend_on_the_content(collate, samples):
    batch = collate(samples)
    words = PatchWords(**batch["sea"])
    assert words.label_N.shape == words.valid_N.shape == (ROOM,)
    assert words.patch_N.shape == words.key_N.shape == (ROOM,)
    assert tuple(batch["pixel_values"].shape) == (1, 3, 2, 2)
    labelled = [label for s in samples for label in s["sea_label"].tolist() if label != 2]
    assert words.valid_N.sum() == len(set(labelled)) == len(words.word_U)


def test_a_text_only_batch_carries_one_zero_picture_nobody_points_at(collate):
    batch = collate([sample(3), sample(4)])
    assert not batch["image_mask"].any() and batch["pixel_values"].abs().sum() == 0


def test_without_sea():
    batch = Collator(9, (2, 2), P)([sample(6, picture=1.0), sample(3)])
    assert set(batch) == {"input_ids", "labels", "attention_mask", "image_mask", "pixel_values"}


def test_order_of_the_samples_does_not_choose_the_winner(collate):
    one, two = sample(5, [(0, 0, 7)], picture=1.0), sample(5, [(2, 0, 8)], picture=2.0)
    for samples, winner in (([one, two], 0), ([two, one], P)):
        batch = collate(samples)
        words = PatchWords(**batch["sea"])
        assert words.patch_N[words.valid_N].tolist() == [winner]
