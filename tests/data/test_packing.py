"""Packed rows hold every sample whole."""

from itertools import chain

import torch
from hypothesis import given
from hypothesis import strategies as st

from llava_sea.data.packing import PackedCollator, balance

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30)
P = 2


@given(LENGTHS, st.integers(1, 8))
def test_balanced_parts_hold_each_item_once_and_are_alike(lengths, parts):
    found = balance(lengths, parts)
    assert len(found) == parts and sorted(chain(*found)) == list(range(len(lengths)))
    sums = [sum(lengths[item] for item in part) for part in found]
    assert max(sums) - min(sums) <= max(lengths)
    assert all(found) == (len(lengths) >= parts)


def sample(length, images=()):
    ids = torch.arange(1, length + 1) + 100 * length
    mask = (ids > 0) & (torch.arange(length) < P * len(images))
    made = {"input_ids": ids, "labels": ids.clone(), "image_mask": mask}
    if images:
        made["pixel_values"] = torch.stack([torch.full((3, 2, 2), float(p)) for p in images])
    return made


def test_one_row_without_padding():
    batch = PackedCollator(9, (2, 2), P)([sample(5, [1, 2]), sample(1), sample(4, [3])])
    assert batch["input_ids"].tolist() == [[501, 502, 503, 504, 505, 101, 401, 402, 403, 404]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 0, 1, 2, 3]]
    # a sample's first token is nobody's to predict
    assert batch["labels"].tolist() == [[-100, 502, 503, 504, 505, -100, -100, 402, 403, 404]]
    assert batch["image_mask"].tolist() == [[True] * 4 + [False] * 2 + [True] * 2 + [False] * 2]
    assert batch["attention_mask"].all() and batch["attention_mask"].dtype == torch.int64
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [1, 2, 3]
    assert batch["sample_lengths"] == [5, 1, 4]


def test_text_alone_has_a_stand_in_image():
    batch = PackedCollator(9, (2, 2), P)([sample(3)])
    assert batch["pixel_values"].shape == (1, 3, 2, 2) and not batch["pixel_values"].any()
    assert not batch["image_mask"].any()
