"""The store: what is written is read, nothing half-written counts, damage is found."""

import hashlib
import json
import math
import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_sea.alignment import (
    LabelStore,
    LabelStoreError,
    finalize_store,
    finished_shards,
    write_shard,
)
from llava_sea.alignment.label_rows import pack_rows, row_dtype, unpack_row
from llava_sea.alignment.label_store import FORMAT

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
    assert "other.jpg" not in store and "half \ud83d.jpg" not in store
    with pytest.raises(LabelStoreError, match=r"other\.jpg.*other data"):
        store.read("other.jpg")
    for name, ids, scores, crc in reversed(rows):
        labels = store.read(name)
        np.testing.assert_array_equal(labels.ids_PN, ids)
        np.testing.assert_array_equal(labels.scores_PN, np.maximum(scores, 0).astype(np.float16))
        assert labels.crc32 == crc and name in store


def test_five_bytes_an_entry(tmp_path):
    ids = np.full((50, 64, 10), 2**24 - 1)
    write_shard(
        tmp_path, 0, [str(n) for n in range(50)], ids, np.ones(ids.shape), np.zeros(50, int)
    )
    (path,) = tmp_path.glob("*.npy")
    assert 0 < os.path.getsize(path) - (5 * ids.size + 8 * 50) < 1024


def test_unfinished_and_missing_stores_say_what_to_do(tmp_path):
    with pytest.raises(LabelStoreError, match="Make one"):
        LabelStore(tmp_path / "nowhere")
    write(tmp_path, finalize=False)
    with pytest.raises(LabelStoreError, match="cut off"):
        LabelStore(tmp_path)


def test_a_damaged_or_missing_shard_is_found(tmp_path):
    write(tmp_path, finalize=False)
    flip(tmp_path / "shard-00001.labels.npy", -1)
    with pytest.raises(LabelStoreError, match=r"shard-00001\.labels.*damaged"):
        finalize_store(tmp_path, {"grid": [2, 3]}, 2)
    (tmp_path / "shard-00000.json").unlink()
    assert finished_shards(tmp_path) == {1}
    with pytest.raises(LabelStoreError, match="shard 0 was not finished"):
        finalize_store(tmp_path, {"grid": [2, 3]}, 2)


def test_an_image_twice_is_refused(tmp_path):
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
    path, found = tmp_path / "manifest.json", "llava_sea labels 2"
    path.write_text(path.read_text().replace(FORMAT, found))
    with pytest.raises(LabelStoreError, match=rf"format '{found}'.*extract the labels again"):
        LabelStore(tmp_path)


@pytest.mark.parametrize("side_file", [{"images": [], "sha256": {}}, [], {"format": FORMAT}])
def test_a_shard_of_another_format_is_refused(tmp_path, side_file):
    write(tmp_path, finalize=False)
    (tmp_path / "shard-00001.json").write_text(json.dumps(side_file))
    with pytest.raises(LabelStoreError, match=r"shard-00001\.json.*delete it and run"):
        finalize_store(tmp_path, {"grid": [2, 3]}, 2)


def labels_or_refusal(directory, names):
    """Return each image's labels as bytes, None where the store refuses to give them."""
    found = {}
    for name in names:
        try:
            ids, scores, crc = LabelStore(directory).read(name)
            found[name] = ids.tobytes(), scores.tobytes(), crc
        except LabelStoreError as error:
            assert str(directory) in str(error)
            found[name] = None
    return found


def flip(path, bit):
    np.memmap(path, np.uint8, "r+")[bit // 8] ^= 1 << bit % 8


def test_every_flipped_bit_of_a_row_is_found(tmp_path):
    """All bits of ids, scores, checksums: the image of that row is refused by name, no other."""
    rows = write(tmp_path)
    path, names = tmp_path / "shard-00000.labels.npy", [row[0] for row in rows]
    whole, store = labels_or_refusal(tmp_path, names), LabelStore(tmp_path)
    size = 8 * row_dtype(6, 2, 3).itemsize
    header = 8 * path.stat().st_size - 3 * size
    for bit in range(header, 8 * path.stat().st_size):
        name = names[(bit - header) // size]
        flip(path, bit)
        with pytest.raises(LabelStoreError, match=rf"shard-00000.*'{name}'.*extract the labels"):
            store.read(name)
        flip(path, bit)
    assert labels_or_refusal(tmp_path, names) == whole and None not in whole.values()


@pytest.mark.parametrize("name", ["shard-00001.labels.npy", "index.npy", "manifest.json"])
def test_no_flipped_bit_gives_other_labels(tmp_path, name):
    """Headers, the index, the manifest: an image's own labels or a refusal, nothing else."""
    rows = write(tmp_path)
    path, names = tmp_path / name, [row[0] for row in rows]
    whole, refused = labels_or_refusal(tmp_path, names), 0
    for bit in np.random.default_rng(7).permutation(8 * path.stat().st_size)[:400].tolist():
        flip(path, bit)
        found = labels_or_refusal(tmp_path, names)
        flip(path, bit)
        assert all(found[image] in (whole[image], None) for image in names), bit
        refused += None in found.values()
    assert refused


@pytest.mark.parametrize(
    ("change", "fault"),
    [(lambda row_I: np.roll(row_I, 1), "checksum"), (lambda row_I: row_I + 5, "index.npy is dam")],
    ids=["other rows", "past the end"],
)
def test_an_index_that_points_to_other_rows_is_found(tmp_path, change, fault):
    write(tmp_path)
    index = np.load(tmp_path / "index.npy")
    np.save(tmp_path / "index.npy", np.stack([index[0], change(index[1])]))
    for number in range(5):
        with pytest.raises(LabelStoreError, match=fault):
            LabelStore(tmp_path).read(f"pic {number}.jpg")


@pytest.mark.parametrize(
    ("word", "score", "fault"),
    [
        (0, math.nan, "score"),
        (0, math.inf, "score"),
        (0, 1e6, "score"),
        (-1, 0.5, "word id"),
        (2**32, 0.5, "word id"),
    ],
)
def test_what_cannot_be_stored_is_named(tmp_path, word, score, fault):
    ids, scores = np.zeros((2, 6, 2), int), np.zeros((2, 6, 2))
    ids[1, 3, 0], scores[1, 3, 0] = word, score
    with pytest.raises(ValueError, match=rf"'b'.*{fault}"):
        write_shard(tmp_path, 0, ["a", "b"], ids, scores, np.zeros(2, int))
    assert not list(tmp_path.iterdir())


@given(
    images=st.integers(0, 4),
    patches=st.integers(1, 7),
    top_n=st.integers(1, 3),
    largest=st.sampled_from([0, 1, 2**16 - 1, 2**16, 2**24 - 1, 2**24, 2**32 - 1]),
    seed=st.integers(0, 1000),
)
def test_rows_pack_and_unpack(images, patches, top_n, largest, seed):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, largest + 1, (images, patches, top_n))
    if images:
        ids[0, 0, 0] = largest
    scores, crc = rng.normal(size=ids.shape).astype(np.float32), rng.integers(0, 2**32, images)
    names = [f"{n}.jpg" for n in range(images)]
    rows, id_bytes = pack_rows(names, ids, scores, crc)
    assert id_bytes == (4 if images and largest >= 2**24 else 3)
    assert rows.dtype.itemsize <= 8 + (2 + id_bytes) * patches * top_n + 3
    for row, name, *expected in zip(rows, names, ids, scores, crc, strict=True):
        labels = unpack_row(row, name)
        np.testing.assert_array_equal(labels.ids_PN, expected[0])
        np.testing.assert_array_equal(
            labels.scores_PN, np.maximum(expected[1], 0).astype(np.float16)
        )
        assert labels.crc32 == expected[2]


def test_rounded_scores_keep_their_order_and_their_shares():
    """What reads them: the draw of eq. 9, resampling. Cosines of a top 10."""
    rng = np.random.default_rng(2)
    scores = -np.sort(-rng.uniform(0.01, 0.4, (1, 576, 10)), axis=2)
    rows, _ = pack_rows(["a"], np.zeros(scores.shape, int), scores, np.zeros(1, int))
    stored = unpack_row(rows[0], "a").scores_PN.astype(np.float64)
    assert (np.diff(stored, axis=1) <= 0).all() and (stored > 0).all()
    share, exact = (s / s.sum(-1, keepdims=True) for s in (stored, scores[0]))
    assert np.abs(share / exact - 1).max() < 2e-3


def test_a_file_that_shrinks_after_opening_is_named(tmp_path):
    write(tmp_path)
    store = LabelStore(tmp_path)
    path = tmp_path / "shard-00000.labels.npy"
    os.truncate(path, path.stat().st_size - 1)
    store.read("pic 0.jpg")
    with pytest.raises(
        LabelStoreError, match=r"'pic 2\.jpg' cannot be read .*ends before its row 2"
    ):
        store.read("pic 2.jpg")
    for size in (-64, 64):
        os.truncate(path, path.stat().st_size + size)
        with pytest.raises(LabelStoreError, match=r"damaged.*wrong size"):
            LabelStore(tmp_path)


def test_a_copy_for_another_process_opens_the_files_itself(tmp_path):
    rows = write(tmp_path)
    store = LabelStore(tmp_path)
    store.read(rows[0][0])
    copy = pickle.loads(pickle.dumps(store))
    assert len(pickle.dumps(store)) < 1000
    del store
    np.testing.assert_array_equal(copy.read(rows[0][0]).ids_PN, rows[0][1])


def test_more_shards_than_a_process_may_hold_open(tmp_path):
    resource = pytest.importorskip("resource")
    rows = write(tmp_path, per_shard=(1,) * 80)
    store, (soft, hard) = LabelStore(tmp_path), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        for name, ids, _, _ in rows:
            np.testing.assert_array_equal(store.read(name).ids_PN, ids)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _without_shard(manifest):
    found = json.loads(manifest)
    del found["shards"][1]
    return json.dumps(found).encode()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("manifest.json", _without_shard),
        ("manifest.json", lambda _: b"[]"),
        ("manifest.json", lambda _: b"\xff{"),
        ("index.npy", lambda _: b""),
        ("index.npy", lambda data: data[:-8]),
    ],
    ids=["shard missing", "a list", "not text", "empty index", "short index"],
)
def test_parts_that_do_not_fit_together_are_refused(tmp_path, name, change):
    write(tmp_path)
    (tmp_path / name).write_bytes(change((tmp_path / name).read_bytes()))
    with pytest.raises(LabelStoreError, match=str(tmp_path)):
        LabelStore(tmp_path)
