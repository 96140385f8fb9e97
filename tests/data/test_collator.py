"""Batches have one shape whatever is in them; one pair a label, by the keys."""

import numpy as np
import pytest
import torch

from llava_sea.alignment import PairOptions
from llava_sea.data.collator import Collator
from llava_sea.data.words import WordTokens

P, ROOM = 4, 6
WORDS = WordTokens(
    np.array([[11, 12], [13, -1], [-1, -1], [14, 15]], np.int32),
    np.array([False, False, True, False]),
)
SHAPES = {"sea_patch": (6,), "sea_label": (6,), "sea_key": (6,), "sea_words": (6, 2)}


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
    assert batch["sea_patch"].tolist() == [0, 3, P + 1, P + 2, P + 3, 0]
    assert batch["sea_label"].tolist() == [0, 1, 0, 2, 3, 0]
    assert batch["sea_key"].tolist() == [50, 40, 30, 10, 20, 0]
    # Label 0 occurs twice, the smaller key stays; label 2 has no tokens; the last one is padding.
    assert batch["sea_valid"].tolist() == [False, True, True, False, True, False]
    assert batch["sea_words"].tolist() == [
        [11, 12],
        [13, -1],
        [11, 12],
        [-1, -1],
        [14, 15],
        [-1, -1],
    ]
    assert all(batch[name].dtype == torch.int64 for name in SHAPES)


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
    assert {name: tuple(batch[name].shape) for name in SHAPES} == SHAPES
    assert batch["sea_valid"].dtype == torch.bool and tuple(batch["sea_valid"].shape) == (ROOM,)
    assert tuple(batch["pixel_values"].shape) == (1, 3, 2, 2)
    labelled = [label for s in samples for label in s["sea_label"].tolist() if label != 2]
    assert batch["sea_valid"].sum() == len(set(labelled))


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
        assert batch["sea_patch"][batch["sea_valid"]].tolist() == [winner]


def with_top_n(length, pairs, tops, picture=1.0):
    """A sample whose pairs carry their patch's top 2: ((id, score), (id, score))."""
    top = torch.tensor(tops, dtype=torch.float32).reshape(len(pairs), 2, 2)
    more = {"sea_top_n": top[..., 0].long(), "sea_scores": top[..., 1]}
    return sample(length, pairs, picture) | more


SHARED = [
    with_top_n(
        5,
        [(0, 0, 50), (3, 2, 40)],
        [((0, 0.5), (3, 0.25)), ((2, 0.75), (1, 0.25))],
    ),
    with_top_n(
        5,
        [(1, 0, 30), (2, 3, 10)],
        [((0, 0.5), (-1, 0.0)), ((3, 0.5), (0, 0.5))],
    ),
]


def test_all_pairs_of_a_label_stay():
    batch = Collator(9, (2, 2), P, ROOM, WORDS, PairOptions("all"))(SHARED)
    # Label 2 has no tokens; both patches of label 0 stay; no keys, no top n.
    assert batch["sea_valid"].tolist() == [True, False, True, True, False, False]
    assert batch["sea_label"].tolist() == [0, 2, 0, 3, 0, 0]
    assert batch["sea_word"].tolist() == [0, 3]
    assert batch["sea_words"].tolist() == [[11, 12], [14, 15]]
    assert not {"sea_key", "sea_top_n", "sea_scores"} & set(batch)


def test_masking_carries_the_top_n():
    options = PairOptions("one", mask_own_top_n=True)
    batch = Collator(9, (2, 2), P, ROOM, WORDS, options)(SHARED)
    assert batch["sea_valid"].tolist() == [False, False, True, True, False, False]
    assert batch["sea_key"].tolist() == [50, 40, 30, 10, 0, 0]
    assert batch["sea_word"].tolist() == [0, 3]
    assert batch["sea_top_n"].tolist() == [[0, 3], [-1, 1], [0, -1], [3, 0], [-1, -1], [-1, -1]]
    assert "sea_scores" not in batch


def test_soft_targets_are_the_usable_words_of_the_top_n():
    batch = Collator(9, (2, 2), P, ROOM, WORDS, PairOptions("all", "soft"))(SHARED)
    # The second patch drew a word without tokens; its other word is its target.
    assert batch["sea_valid"].tolist() == [True] * 4 + [False] * 2
    assert batch["sea_word"].tolist() == [0, 1, 3]
    assert batch["sea_words"].tolist() == [[11, 12], [13, -1], [14, 15]]
    assert batch["sea_top_n"].tolist() == [[0, 3], [-1, 1], [0, -1], [3, 0], [-1, -1], [-1, -1]]
    assert batch["sea_scores"].tolist() == [
        [0.5, 0.25],
        [0.0, 0.25],
        [0.5, 0.0],
        [0.5, 0.5],
        [0.0, 0.0],
        [0.0, 0.0],
    ]


def test_no_pairs_no_words():
    none = with_top_n(3, [], [])
    batch = Collator(9, (2, 2), P, ROOM, WORDS, PairOptions("all", "soft"))([none])
    assert batch["sea_word"].shape == (0,) and batch["sea_words"].shape == (0, 2)
    assert not batch["sea_valid"].any() and batch["sea_top_n"].shape == (ROOM, 2)
