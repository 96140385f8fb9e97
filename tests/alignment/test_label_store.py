"""The store: what is written is read, nothing half-written counts, damage is found."""

import hashlib
import os

import numpy as np
import pytest

from llava_sea.alignment import (
    LabelStore,
    LabelStoreError,
    finalize_store,
    shard_is_done,
    write_shard,
)

WORDS = "word\tcount\tpos\nred ball\t3\tNP\ndog\t1\tNN\n"


def write(directory, per_shard=(3, 2), finalize=True):
    rng = np.random.default_rng(0)
    (directory / "words.tsv").write_text(WORDS)
    rows, first = [], 0
    for shard, size in enumerate(per_shard):
        names = [f"pic {first + n}.jpg" for n in range(size)]
        ids = rng.integers(0, 2, (size, 6, 2))
        scores = rng.uniform(-1, 1, (size, 6, 2)).astype(np.float32)
        crc = rng.integers(0, 2**32, size)
        skipped = {names[0]: "truncated"} if shard else {}
        write_shard(directory, shard, names, ids, scores, crc, skipped)
        rows += list(zip(names, ids, scores, crc, strict=True))
        first += size
    fields = {
        "grid": [2, 3],
        "top_n": 2,
        "words_sha256": hashlib.sha256(WORDS.encode()).hexdigest(),
    }
    if finalize:
        finalize_store(directory, fields, len(per_shard))
    return rows


def test_round_trip(tmp_path):
    rows = write(tmp_path)
    store = LabelStore(tmp_path)
    assert store.grid == (2, 3) and store.top_n == 2 and store.num_images == 5
    assert store.words() == ["red ball", "dog"]
    assert store.skipped == {"pic 3.jpg": "truncated"}
    assert store.images() == [row[0] for row in rows]
    for name, ids, scores, crc in reversed(rows):
        labels = store.read(name)
        np.testing.assert_array_equal(labels.ids_PN, ids)
        np.testing.assert_array_equal(labels.scores_PN, np.maximum(scores, 0).astype(np.float16))
        assert labels.crc32 == crc and name in store


def test_six_bytes_an_entry(tmp_path):
    ids = np.zeros((50, 64, 10), np.int64)
    write_shard(tmp_path, 0, [str(n) for n in range(50)], ids, ids.astype(float), np.zeros(50, int))
    entries = sum(os.path.getsize(p) for p in tmp_path.glob("*.ids.npy"))
    entries += sum(os.path.getsize(p) for p in tmp_path.glob("*.scores.npy"))
    assert entries - 2 * 128 == 6 * ids.size


def test_other_pictures_are_refused(tmp_path):
    write(tmp_path)
    store = LabelStore(tmp_path)
    assert "other.jpg" not in store
    with pytest.raises(LabelStoreError, match=r"other\.jpg.*other data"):
        store.read("other.jpg")


def test_unfinished_and_missing_stores_say_what_to_do(tmp_path):
    with pytest.raises(LabelStoreError, match="Make one"):
        LabelStore(tmp_path / "nowhere")
    write(tmp_path, finalize=False)
    with pytest.raises(LabelStoreError, match="cut off"):
        LabelStore(tmp_path)


def test_a_damaged_shard_is_found(tmp_path):
    write(tmp_path, finalize=False)
    path = tmp_path / "shard-00001.scores.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(LabelStoreError, match=r"shard-00001\.scores.*damaged"):
        finalize_store(tmp_path, {"grid": [2, 3]}, 2)


def test_a_missing_shard_is_found(tmp_path):
    write(tmp_path, finalize=False)
    (tmp_path / "shard-00000.json").unlink()
    assert not shard_is_done(tmp_path, 0) and shard_is_done(tmp_path, 1)
    with pytest.raises(LabelStoreError, match="shard 0 was not finished"):
        finalize_store(tmp_path, {"grid": [2, 3]}, 2)


def test_a_picture_twice_is_refused(tmp_path):
    zeros = np.zeros((2, 6, 2))
    write_shard(tmp_path, 0, ["a", "a"], zeros.astype(int), zeros, np.zeros(2, int))
    with pytest.raises(LabelStoreError, match="twice"):
        finalize_store(tmp_path, {"grid": [2, 3]}, 1)


def test_a_changed_word_list_is_refused(tmp_path):
    write(tmp_path)
    (tmp_path / "words.tsv").write_text(WORDS.replace("dog", "cat"))
    with pytest.raises(LabelStoreError, match="not the word list"):
        LabelStore(tmp_path).words()


def test_another_format_is_refused(tmp_path):
    write(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace("llava_sea labels 1", "llava_sea labels 0"))
    with pytest.raises(LabelStoreError, match="extract the labels again"):
        LabelStore(tmp_path)
