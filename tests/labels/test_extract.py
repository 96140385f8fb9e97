import errno
import hashlib
import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from extract_world import NAMES, encoded, file_crc, same_store, using

from llava_sea.alignment.label_store import LabelStore
from llava_sea.data.images import ImageTransform
from llava_sea.errors import UserError
from llava_sea.labels.extract import extract_labels
from llava_sea.labels.mine import CorpusImage, ImageLoader, encode_batches
from llava_sea.labels.patch_features import PatchEncoder


def test_labels_equal_a_naive_loop(labelled):
    store = LabelStore(labelled.output_dir)
    patches, words = encoded(labelled)
    assert store.images() == list(patches) and len(patches) == 24
    for name, patches_PD in patches.items():
        scores, ids = (patches_PD @ words.T).topk(5)
        labels = store.read(name)
        assert labels.crc32 == file_crc(labelled, name)
        kept = scores > 0
        np.testing.assert_allclose(labels.scores_PN, scores.clamp(min=0), atol=1e-3)
        np.testing.assert_array_equal(labels.ids_PN, torch.where(kept, ids, 0))


def test_a_word_of_the_caption_wins_where_it_scores_nearly_as_high(labelled, tmp_path):
    """Against a loop over patches; captions are of the world's own words."""
    records = json.loads(Path(labelled.data_path).read_text())
    words = LabelStore(labelled.output_dir).words()
    for number, record in enumerate(records):
        said = f"{words[number % 60]} and {words[(7 * number + 3) % 60]}" if number % 5 else "none"
        record["conversations"][1]["value"] = said
    data = tmp_path / "data.json"
    data.write_text(json.dumps(records))
    options = using(
        labelled, data_path=str(data), sea_caption_share=0.5, output_dir=str(tmp_path / "labels")
    )
    store, mined = LabelStore(extract_labels(options)), LabelStore(labelled.output_dir)
    assert store.manifest["caption_share"] == 0.5
    patches, vectors = encoded(labelled)
    caption_of: dict[str, str] = {}
    for record in records:
        caption_of.setdefault(record.get("image", ""), record["conversations"][1]["value"])
    taken = 0
    for name, patches_PD in patches.items():
        own = [i for i, word in enumerate(words) if word in caption_of[name].split()]
        found, before = store.read(name), mined.read(name)
        for patch, scores_Q in enumerate((patches_PD @ vectors.T).tolist()):
            best = max(own, key=lambda i: scores_Q[i], default=None)
            if best is None or not 0 < scores_Q[best] >= 0.5 * max(*scores_Q, 0):
                assert found.ids_PN[patch].tolist() == before.ids_PN[patch].tolist()
                continue
            taken += 1
            assert found.ids_PN[patch].tolist() == [best, 0, 0, 0, 0]
            assert found.scores_PN[patch, 0] == pytest.approx(scores_Q[best], abs=1e-3)
            assert not found.scores_PN[patch, 1:].any()
    assert 20 < taken < 24 * 9 - 20


def test_manifest_says_what_the_labels_are(labelled):
    world, store = labelled, LabelStore(labelled.output_dir)
    words, manifest = Path(world.words).read_bytes(), store.manifest
    assert (Path(world.output_dir) / "words.tsv").read_bytes() == words
    assert store.words()[:60] == NAMES
    assert manifest["words_sha256"] == hashlib.sha256(words).hexdigest()
    assert manifest["encoder_fingerprint"] == (
        PatchEncoder.from_pretrained(world.vision_tower).fingerprint
    )
    transform = ImageTransform.from_pretrained(world.vision_tower, "square")
    assert manifest["geometry"] == transform.geometry()
    wanted = {"features": "value", "sign": 1, "sign_choice": "+1", "top_n": 5, "grid": [3, 3]}
    assert {k: manifest[k] for k in wanted} == wanted
    assert manifest["num_words"] == 61 and manifest["num_words_too_long"] == 1
    left = {p.name for p in Path(world.output_dir).iterdir()}
    assert not any("tmp" in name for name in left) and not {"work", ".lock"} & left


def test_the_negative_sign_finds_other_words_and_pad_other_labels(labelled, tmp_path):
    def mined(**changes):
        options = using(labelled, output_dir=str(tmp_path / "_".join(changes)), **changes)
        store = LabelStore(extract_labels(options))
        return store.manifest, store.read("0.jpg")

    plus = LabelStore(labelled.output_dir)
    kept = plus.read("0.jpg")
    manifest, minus = mined(sea_sign="-1")
    assert manifest["sign"] == -1 and kept.scores_PN.any() and minus.scores_PN.any()
    for patch in range(9):
        first, second = (set(x.ids_PN[patch][x.scores_PN[patch] > 0]) for x in (kept, minus))
        assert not first & second
    manifest, padded = mined(image_aspect_ratio="pad")
    assert manifest["geometry"] != plus.manifest["geometry"]
    assert not np.array_equal(padded.ids_PN, kept.ids_PN)


def test_complete_store_is_left_alone(labelled, caplog):
    caplog.set_level(logging.INFO, "llava_sea")
    stamps = {p: p.stat().st_mtime_ns for p in Path(labelled.output_dir).iterdir()}
    extract_labels(using(labelled, shard_size=7, batch_size=2))
    assert "nothing to do" in caplog.text
    assert {p: p.stat().st_mtime_ns for p in Path(labelled.output_dir).iterdir()} == stamps


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("features", {"sea_features": "qq"}),
        ("sign_choice", {"sea_sign": "-1"}),
        ("center", {"sea_center": "corpus"}),
        ("top_n", {"sea_top_n": 3}),
        ("geometry", {"image_aspect_ratio": "pad"}),
        ("dtype", {"dtype": "bfloat16"}),
        ("word_template", {"word_template": "w1 {}"}),
    ],
)
def test_other_parameters_are_refused_by_name(labelled, field, change):
    with pytest.raises(UserError, match=rf"made with {field} = "):
        extract_labels(using(labelled, **change))


def test_unfinished_folder_refuses_other_parameters_and_other_data(world, tmp_path):
    (tmp_path / "images" / "sub" / "13.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be decoded"):
        extract_labels(world)
    assert (tmp_path / "labels" / "shard-00001.json").exists()
    with pytest.raises(UserError, match="made with shard_size = 5, this run has 4"):
        extract_labels(using(world, shard_size=4))
    with pytest.raises(UserError, match="made with words_sha256"):
        words = Path(world.words).read_text().replace("w7\t", "w7x\t")
        (tmp_path / "other.tsv").write_text(words)
        extract_labels(using(world, words=str(tmp_path / "other.tsv")))
    records = json.loads(Path(world.data_path).read_text())
    (tmp_path / "other.json").write_text(json.dumps(records[:10]))
    with pytest.raises(UserError, match="made with images_sha256"):
        extract_labels(using(world, data_path=str(tmp_path / "other.json")))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("damage", ["missing", "broken", "bomb"])
def test_bad_image_stops_or_is_skipped_and_listed(world, tmp_path, damage, monkeypatch):
    path = tmp_path / "images" / "sub" / "13.png"
    if damage == "missing":
        path.unlink()
    elif damage == "broken":
        path.write_bytes(path.read_bytes()[:300])
    else:
        monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 33 * 40 // 2 - 1)
        for i in range(13, 24):
            if i > 13:
                (tmp_path / "images" / (f"sub/{i}.png" if i % 2 else f"{i}.jpg")).unlink()
    with pytest.raises(UserError, match=r"r13.*13\.png.*--on_bad_image skip"):
        extract_labels(world)
    store = LabelStore(extract_labels(using(world, on_bad_image="skip")))
    assert "13.png" in store.skipped["sub/13.png"]
    labels = store.read("sub/13.png")
    assert labels.crc32 == 0 and not labels.scores_PN.any() and not labels.ids_PN.any()
    assert store.read("12.jpg").scores_PN.any() and "12.jpg" not in store.skipped


def test_wrong_image_folder_and_no_images(world, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(UserError, match="none of the first 24 images"):
        extract_labels(using(world, image_folder=str(tmp_path / "elsewhere"), on_bad_image="skip"))
    with pytest.raises(UserError, match="no such folder"):
        extract_labels(using(world, image_folder=str(tmp_path / "nowhere")))
    records = [r for r in json.loads(Path(world.data_path).read_text()) if not r["image"]]
    Path(world.data_path).write_text(json.dumps(records))
    with pytest.raises(UserError, match="no record with an image"):
        extract_labels(world)


def test_folder_with_other_things_is_not_touched(world, tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "thesis.doc").write_text("precious")
    with pytest.raises(UserError, match=r"holds other things \(thesis\.doc\)"):
        extract_labels(world)
    assert not (tmp_path / "labels" / "work").exists()


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff\xfe"])
@pytest.mark.parametrize("name", ["parameters.json", "words.json", "sign.json"])
def test_a_damaged_state_is_one_line(world, monkeypatch, name, content):
    from llava_sea.labels import prepare
    from llava_sea.labels.state import work_folder

    path = work_folder(Path(world.output_dir)) / name
    auto = using(world, sea_sign="auto")
    monkeypatch.setattr(prepare, "measure_sign", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # cut off
        extract_labels(auto)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged|made with") as caught:
        extract_labels(auto)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value) or (name, content) == ("parameters.json", b"{}")


def test_full_disk_keeps_finished_shards_and_the_next_run_ends_it(world, monkeypatch):
    import llava_sea.alignment.label_store as label_store

    save, calls = np.save, []

    def full(file, array, *args):
        calls.append(1)
        if len(calls) > 2:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(file, array, *args)

    monkeypatch.setattr(label_store.np, "save", full)
    with pytest.raises(
        UserError, match=r"shard-00002\.labels\.npy: No space left.*GB are free.*same command"
    ):
        extract_labels(world)
    monkeypatch.undo()
    assert len(list(Path(world.output_dir).glob("shard-*.json"))) == 2
    assert not list(Path(world.output_dir).glob(".shard*"))
    extract_labels(world)
    whole = extract_labels(using(world, output_dir=world.output_dir + "-whole"))
    assert same_store(world.output_dir, whole)


def test_measured_sign_is_kept_in_the_manifest_or_refused(world, tmp_path, caplog):
    """Captions that name each image's best words are planted; then ones that don't."""
    caplog.set_level(logging.INFO, "llava_sea")
    probe = LabelStore(extract_labels(using(world, output_dir=str(tmp_path / "probe"))))
    best = {}
    for name in probe.images():
        labels = probe.read(name)
        ids, counts = np.unique(labels.ids_PN[labels.scores_PN > 0], return_counts=True)
        best[name] = ids[np.argsort(-counts)]
    common = np.bincount(np.concatenate(list(best.values())), minlength=61)
    records = json.loads(Path(world.data_path).read_text())
    for record in records:
        if record["image"]:
            rare = sorted(best[record["image"]], key=lambda i: common[i])[:4]
            record["conversations"][1]["value"] = " and ".join(NAMES[i] for i in rare)
    Path(world.data_path).write_text(json.dumps(records))
    auto = using(world, sea_sign="auto", output_dir=str(tmp_path / "auto"))
    store = LabelStore(extract_labels(auto))
    assert store.manifest["sign"] == 1 and store.manifest["sign_choice"] == "auto"
    assert store.manifest["sign_measured"]["plus"]["lift"] > 1
    assert "caption lift on 24 images" in caplog.text
    for record in records:
        record["conversations"][1]["value"] = "something unknown"
    Path(world.data_path).write_text(json.dumps(records))
    with pytest.raises(UserError, match="--sea_sign auto"):
        extract_labels(using(auto, output_dir=str(tmp_path / "refused")))


def test_progress_reaches_the_total(world, capsys):
    extract_labels(world)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("images: 24/24")
    assert any(line.startswith("words: 60/61") for line in lines)  # one is too long to be encoded


class Broken:
    """An encoder that gives a feature that is no number, for the second image of each batch."""

    def encode_images(self, pixels_BCHW, features):
        patches_BPD = torch.ones(len(pixels_BCHW), 3, 4)
        patches_BPD[1, 2, 3] = torch.nan
        return patches_BPD


@pytest.mark.parametrize(
    ("dtype", "way_out"), [("float16", "--dtype float32"), ("float32", "vision tower's weights")]
)
def test_an_image_whose_features_are_not_finite_is_named(world, dtype, way_out):
    """Mining, the sign, the centre and label quality all read images by `encode_batches`."""
    (Path(world.image_folder) / "0.jpg").unlink()
    options = using(world, dtype=dtype, on_bad_image="skip")
    names = [CorpusImage(name, "0") for name in ("0.jpg", "2.jpg", "4.jpg")]
    with pytest.raises(UserError, match=rf"^4\.jpg.*{way_out}"):
        list(encode_batches(Broken(), ImageLoader(options), names, "value"))


def test_labels_that_do_not_fit_on_the_disk_are_refused_before_they_are_mined(
    world, monkeypatch, caplog
):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    caplog.set_level("INFO", "llava_sea")
    with pytest.raises(UserError, match=r"0\.00 GiB are free .* make room"):
        extract_labels(world)
    assert "GiB of memory" in caplog.text and not list(Path(world.output_dir).glob("shard-*"))
