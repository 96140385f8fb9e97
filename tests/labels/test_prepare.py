import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from extract_world import encoded, same_store, using

from llava_sea.alignment.label_store import LabelStore
from llava_sea.errors import UserError
from llava_sea.labels import occurrence
from llava_sea.labels.extract import extract_labels
from llava_sea.labels.mine import spread
from llava_sea.labels.occurrence import CaptionWords, find_occurrences
from llava_sea.labels.prepare import mean_patch


@pytest.fixture
def centred(world):
    return using(world, sea_center="corpus", sign_sample=7)


def test_sample_is_spread_evenly():
    assert spread(list(range(10)), 4) == [0, 3, 6, 9]
    assert spread(list(range(3)), 7) == [0, 1, 2] and spread([], 3) == [] and spread([5], 1) == [5]


def test_mean_is_over_all_patches_of_batches_of_any_size():
    patches = torch.randn(7, 4, 5)
    found = mean_patch([patches[:2], patches[2:]])
    np.testing.assert_allclose(found, patches.flatten(0, 1).mean(0), atol=1e-6)
    assert found.dtype == np.float32
    with pytest.raises(UserError, match="--sea_center corpus: none of the sample"):
        mean_patch([])


def test_extracted_labels_are_those_of_scores_less_the_sample_means(centred):
    store = LabelStore(extract_labels(centred))
    patches, words = encoded(centred)
    sample = spread(list(patches), 7)
    usual = torch.cat([patches[name] for name in sample]) @ words.T
    for name, patches_PD in patches.items():
        scores, ids = (patches_PD @ words.T - usual.mean(0)).topk(5)
        labels = store.read(name)
        np.testing.assert_allclose(labels.scores_PN, scores.clamp(min=0), atol=1e-3)
        np.testing.assert_array_equal(labels.ids_PN, torch.where(scores > 0, ids, 0))


def test_manifest_and_folder_hold_the_centre(centred, tmp_path):
    manifest = LabelStore(extract_labels(centred)).manifest
    center = np.load(tmp_path / "labels" / "center.npy")
    assert manifest["center"] == "corpus" and manifest["sign_sample"] == 7
    assert manifest["center_length"] == pytest.approx(np.linalg.norm(center), abs=1e-6)
    plain = using(centred, sea_center="none", output_dir=str(tmp_path / "plain"))
    manifest = LabelStore(extract_labels(plain)).manifest
    assert manifest["center"] == "none" and manifest["center_length"] is None
    assert not (tmp_path / "plain" / "center.npy").exists()


def test_continued_extraction_uses_the_kept_centre(centred, tmp_path, monkeypatch):
    broken = tmp_path / "images" / "sub" / "13.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be decoded"):
        extract_labels(centred)
    path = tmp_path / "labels" / "center.npy"
    data = path.read_bytes()
    broken.write_bytes(whole)
    path.write_bytes(b"half")
    with pytest.raises(UserError, match=r"center\.npy: damaged, .* delete .*center\.json"):
        extract_labels(centred)
    path.write_bytes(data)

    def forbidden(*_):
        raise AssertionError("the mean was taken a second time")

    monkeypatch.setattr("llava_sea.labels.prepare.mean_patch", forbidden)
    first = extract_labels(centred)
    monkeypatch.undo()
    anew = extract_labels(using(centred, output_dir=str(tmp_path / "anew")))
    assert same_store(first, anew) and path.read_bytes() == data


def test_sign_is_measured_with_the_centring_on(centred, monkeypatch, caplog):
    """All features that the sign sees sum to nothing over the sample that the mean is taken of."""
    caplog.set_level(logging.INFO, "llava_sea")
    seen = []

    def spy(images, *_):
        seen.extend(patches for _, patches in images)
        raise UserError("seen")

    monkeypatch.setattr("llava_sea.labels.prepare.measure_sign", spy)
    with pytest.raises(UserError, match="seen"):
        extract_labels(using(centred, sea_sign="auto"))
    mean = torch.cat(seen).flatten(0, 1).mean(0)
    assert mean.abs().max() < 1e-6 and "the mean patch of 7 images" in caplog.text


@pytest.mark.parametrize("name", ["words.npy", "captions.npy", "sign.json"])
def test_what_another_rank_made_is_verified(world, monkeypatch, name):
    """All of it is whole when mining begins; a byte is changed until the next run."""
    auto = using(world, sea_sign="auto", sea_caption_share=0.5)
    report = SimpleNamespace(plus=1, minus=0)
    monkeypatch.setattr("llava_sea.labels.prepare.measure_sign", lambda *_: report)
    monkeypatch.setattr("llava_sea.labels.prepare.choose_sign", lambda _: 1)
    monkeypatch.setattr("llava_sea.labels.prepare.format_table", str)
    monkeypatch.setattr("llava_sea.labels.prepare.asdict", vars)
    monkeypatch.setattr("llava_sea.labels.mine.write_shard", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        extract_labels(auto)
    path = Path(auto.output_dir) / "work" / name
    data = path.read_bytes()
    changed = data.replace(b'"sign": 1', b'"sign": -1') if name == "sign.json" else data[:-1] + b"?"
    assert changed != data
    path.write_bytes(changed)
    with pytest.raises(UserError, match=rf"work/{name}.*: damaged, .* delete .*\.json"):
        extract_labels(auto)
    path.write_bytes(data)
    with pytest.raises(ZeroDivisionError):
        extract_labels(auto)


def test_captions_words_in_a_file_are_those_found(tmp_path, monkeypatch):
    monkeypatch.setattr(occurrence, "_CAPTIONS_AT_A_TIME", 2)
    captions = ["a red box", "", "the box", "none", "red red box, box"]
    words = ["box", "red box", "red", "table"]
    found = find_occurrences(captions, words)
    CaptionWords.write(tmp_path / "captions.npy", captions, words)
    mapped = CaptionWords(tmp_path / "captions.npy", len(captions))
    assert [mapped[i].tolist() for i in range(5)] == [ids.tolist() for ids in found]
    assert found[0].tolist() == [0, 1, 2] and mapped[0].dtype == found[0].dtype
