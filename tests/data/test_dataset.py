"""Samples and their pairs depend on (seed, epoch, record) alone; labels belong to their picture."""

import shutil
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from llava_sea.alignment.label_store import LabelStore, finalize_store, write_shard
from llava_sea.alignment.sampling import sample_pairs
from llava_sea.alignment.transfer import grid_overlap, transfer_labels
from llava_sea.conversation import get_template
from llava_sea.data.collator import Collator
from llava_sea.data.dataset import LazySupervisedDataset, Loader
from llava_sea.data.problems import IMAGE_MISSING, RecordError
from llava_sea.data.records import Record
from llava_sea.data.sampler import EpochBatchSampler
from llava_sea.data.words import tokenize_words
from llava_sea.errors import UserError


@pytest.fixture
def make(world, clip_transform, hand_tokenizer):
    def build(records=None, version="v1", **options):
        options = {"label_store": world.store, **options}
        return LazySupervisedDataset(
            world.records if records is None else records,
            str(world.folder / "images"),
            clip_transform,
            get_template(version),
            hand_tokenizer,
            image_tokens=16,
            model_max_length=2048,
            **options,
        )

    return build


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)


def test_a_sample(make, world, clip_transform):
    sample = make(seed=3)[(1, 4)]
    assert sample["image_mask"].sum() == 16 and sample["image_mask"].dtype == torch.bool
    assert len(sample["input_ids"]) == len(sample["labels"]) == len(sample["image_mask"])
    picture = Image.open(world.folder / "images" / "1.png")
    assert torch.equal(sample["pixel_values"], clip_transform(picture)[None])
    stored = world.store.read("1.png")
    pairs = sample_pairs(
        stored.ids_PN, stored.scores_PN, (4, 4), window=2, seed=3, epoch=4, record=1
    )
    for name, values in zip(("sea_patch", "sea_label", "sea_key"), pairs, strict=True):
        assert sample[name].dtype == torch.int64 and sample[name].tolist() == values.tolist()
    for patch, label in zip(sample["sea_patch"], sample["sea_label"], strict=True):
        assert stored.scores_PN[patch][stored.ids_PN[patch] == int(label)].max() > 0


def test_without_labels_and_text_only(make, world):
    plain_sample = make(label_store=None)[0]
    assert set(plain_sample) == {"input_ids", "labels", "image_mask", "pixel_values"}
    text = make([world.text_record])[0]
    assert "pixel_values" not in text and not text["image_mask"].any()
    assert len(text["sea_patch"]) == len(text["sea_label"]) == len(text["sea_key"]) == 0


def test_epochs_and_seeds_differ_and_calls_repeat(make):
    data, again, other = make(seed=1), make(seed=1), make(seed=2)
    assert same(data[2], data[(2, 0)]) and same(data[(2, 1)], again[(2, 1)])
    assert not torch.equal(data[(2, 0)]["sea_key"], data[(2, 1)]["sea_key"])
    assert not torch.equal(data[(2, 0)]["sea_key"], other[(2, 0)]["sea_key"])


def batches(make, hand_tokenizer, world, workers, epochs=(0, 1)):
    data = make([*world.records, world.text_record], seed=5)
    words = tokenize_words(world.words, hand_tokenizer, 999)
    room = 3 * data.pairs_per_record
    now = iter(epochs)
    sampler = EpochBatchSampler(
        len(data), 3, rank=0, world_size=1, seed=9, epoch_of=lambda: next(now)
    )
    loader = Loader(
        data,
        Collator(0, (16, 16), 16, room, words),
        batch_sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    return [batch for _ in epochs for batch in loader]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_workers_error_keeps_what_it_carries(make, world, workers):
    record = replace(world.records[2], image="gone.png", file="data.json")
    data = make(records=[*world.records[:2], record], label_store=None)
    loader = iter(Loader(data, list, batch_size=2, num_workers=workers))
    assert len(next(loader)) == 2
    with pytest.raises(RecordError, match=r"^data.json: record 2 \(id 'id2'\): .*gone.png") as e:
        next(loader)
    assert (e.value.kind, e.value.index) == (IMAGE_MISSING, 2)


def test_workers_change_nothing(make, hand_tokenizer, world):
    alone = batches(make, hand_tokenizer, world, 0)
    for workers in (1, 2):
        found = batches(make, hand_tokenizer, world, workers)
        assert len(found) == len(alone) == 6
        assert all(same(a, b) for a, b in zip(found, alone, strict=True))
    resumed = batches(make, hand_tokenizer, world, 2, epochs=(1,))
    assert all(same(a, b) for a, b in zip(resumed, alone[3:], strict=True))
    assert {len(batch["sea"]["valid_N"]) for batch in alone} == {12}


def test_a_picture_that_mining_skipped_has_no_pairs(make):
    data = make()
    assert data.num_without_labels == 1
    assert "pixel_values" in data[5] and len(data[5]["sea_patch"]) == 0


def test_a_store_of_other_data(make, world):
    strange = Record(0, "new", "new.png", world.records[0].turns)
    with pytest.raises(UserError, match=r"1 of 2 records .* 'new.png' of record 0 .id 'new'"):
        make([strange, world.records[1]])
    with pytest.raises(UserError, match="4 x 5 patches do not fit the 16 of an image"):
        make(grid=(4, 5))


def test_labels_of_another_picture(make, world):
    data = make()
    pictures = world.folder / "images"
    shutil.copy(pictures / "0.png", pictures / "1.png")
    with pytest.raises(UserError, match=r"record 1 \(id 'id1'\): .* for another image"):
        data[1]
    data[0]


def test_labels_of_another_grid(make, world):
    """A 2 x 2 store under a tower of 4 x 4: each quarter of the patches has its patch's label."""
    folder = world.folder / "coarse"
    folder.mkdir()
    crc = zlib.crc32((world.folder / "images" / "0.png").read_bytes())
    ids, scores = np.arange(4).reshape(1, 4, 1), np.ones((1, 4, 1), np.float32)
    write_shard(folder, 0, ["0.png"], ids, scores, np.array([crc]))
    finalize_store(folder, {"grid": [2, 2], "top_n": 1}, 1)
    data = make(world.records[:1], label_store=LabelStore(folder), grid=(4, 4), window=1)
    sample = data[0]
    assert sample["sea_patch"].tolist() == list(range(16))
    expected = [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3]
    assert sample["sea_label"].tolist() == expected


def test_resampled_pairs_are_sample_pairs_of_all_resampled_labels(make, world):
    """Only drawn patches are resampled; the draws are those of the whole picture's labels."""
    rng, folder = np.random.default_rng(4), world.folder / "finer"
    folder.mkdir()
    crc = zlib.crc32((world.folder / "images" / "0.png").read_bytes())
    ids, scores = rng.integers(0, 5, (1, 30, 2)), rng.normal(0, 0.3, (1, 30, 2))
    write_shard(folder, 0, ["0.png"], ids, scores, np.array([crc]))
    finalize_store(folder, {"grid": [5, 6], "top_n": 2}, 1)
    store = LabelStore(folder)
    data = make(world.records[:1], label_store=store, grid=(4, 4), seed=7)
    stored = store.read("0.png")
    all_ids, all_scores = transfer_labels(*stored[:2], grid_overlap((5, 6), (4, 4)))
    for epoch in range(20):
        sample = data[(0, epoch)]
        pairs = sample_pairs(all_ids, all_scores, (4, 4), window=2, seed=7, epoch=epoch, record=0)
        for name, values in zip(("sea_patch", "sea_label", "sea_key"), pairs, strict=True):
            assert sample[name].tolist() == values.tolist()
