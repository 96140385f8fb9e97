"""The data set on disk: reproducible, whole, in LLaVA's layout, and true."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava_sea.errors import UserError
from playground.generate import generate, main
from playground.world import GRID, PATCH_SIDE, PICTURE_SIDE


def hash_tree(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("world"), num_train=60, num_heldout=12, seed=3)


def test_same_seed_same_bytes_other_seed_other_bytes(world: Path, tmp_path: Path) -> None:
    again = generate(tmp_path / "again", num_train=60, num_heldout=12, seed=3)
    other = generate(tmp_path / "other", num_train=60, num_heldout=12, seed=4)
    assert hash_tree(again) == hash_tree(world)
    assert hash_tree(other) != hash_tree(world)


def test_more_pictures_keep_the_first_ones(world: Path, tmp_path: Path) -> None:
    more = hash_tree(generate(tmp_path, num_train=70, num_heldout=12, seed=3))
    few = {name: digest for name, digest in hash_tree(world).items() if name.startswith("images/")}
    assert few.items() <= more.items()


def test_second_run_writes_nothing_and_changed_parameters_rebuild(tmp_path: Path) -> None:
    folder = generate(tmp_path, num_train=4, num_heldout=2)
    before = (folder / "pretrain.json").stat().st_mtime_ns
    assert generate(tmp_path, num_train=4, num_heldout=2) == folder
    assert (folder / "pretrain.json").stat().st_mtime_ns == before
    generate(tmp_path, num_train=5, num_heldout=2)
    assert len(json.loads((folder / "pretrain.json").read_text())) == 5
    assert [p.name for p in tmp_path.iterdir()] == ["mini"]


def test_a_failed_run_leaves_the_former_data_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = generate(tmp_path, num_train=4, num_heldout=2)
    before = hash_tree(folder)

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("playground.generate.object_patches", fail)
    with pytest.raises(OSError, match="no space"):
        generate(tmp_path, num_train=5, num_heldout=2)
    assert hash_tree(folder) == before
    assert [p.name for p in tmp_path.iterdir()] == ["mini"]


def test_foreign_folder_and_bad_sizes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="did not write it"):
        generate(tmp_path, num_train=1, num_heldout=1)
    assert (tmp_path / "mini" / "thesis.txt").read_text() == "mine"
    with pytest.raises(UserError, match="--num_train 0"):
        generate(tmp_path / "x", num_train=0)
    with pytest.raises(UserError, match="is a file"):
        generate(tmp_path / "mini" / "thesis.txt", num_train=1, num_heldout=1)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--num_train", "2", "--num_heldout", "1", "--output", str(tmp_path)])
    assert "is ready" in capsys.readouterr().out
    assert (tmp_path / "mini" / "heldout.json").is_file()


@pytest.mark.parametrize(
    ("name", "prefix", "count"), [("pretrain", "train/", 60), ("heldout", "heldout/", 12)]
)
def test_records_are_llava_records(world: Path, name: str, prefix: str, count: int) -> None:
    records = json.loads((world / f"{name}.json").read_text("utf-8"))
    assert len(records) == count
    assert len({record["id"] for record in records}) == count
    for record in records:
        human, caption = record["conversations"]
        assert (human["from"], caption["from"]) == ("human", "gpt")
        assert human["value"].startswith("<image>\n") != human["value"].endswith("\n<image>")
        assert caption["value"].strip() == caption["value"] != ""
        assert record["image"].startswith(prefix)
        with Image.open(world / "images" / record["image"]) as image:
            assert image.size == (PICTURE_SIDE, PICTURE_SIDE)
            assert image.format == {"jpg": "JPEG", "png": "PNG"}[record["image"][-3:]]
    assert {record["image"][-4:] for record in records} == {".jpg", ".png"}


def test_truth_covers_every_patch_of_every_picture(world: Path) -> None:
    truth = json.loads((world / "truth.json").read_text("utf-8"))
    images = [
        record["image"]
        for name in ("pretrain", "heldout")
        for record in json.loads((world / f"{name}.json").read_text())
    ]
    assert truth["grid"] == list(GRID) == [8, 8]
    assert set(truth["images"]) == set(truth["objects"]) == set(images)
    for image in images:
        assert len(truth["images"][image]) == len(truth["objects"][image]) == 64
        assert set(truth["objects"][image]) <= {"0", "1"}
    assert all(words == sorted(set(words)) and words for words in truth["words_sets"])


def test_truth_agrees_with_pixels_of_files(world: Path) -> None:
    """Object patches are far from the median background patch in colour; others mostly are not."""
    truth = json.loads((world / "truth.json").read_text("utf-8"))
    distance: dict[str, list[float]] = {"0": [], "1": []}
    for image, objects in truth["objects"].items():
        with Image.open(world / "images" / image) as picture:
            pixels = np.asarray(picture.convert("RGB"), dtype=float)
        patches = pixels.reshape(8, PATCH_SIDE, 8, PATCH_SIDE, 3).mean(axis=(1, 3)).reshape(64, 3)
        is_object = np.array(list(objects)) == "1"
        ground = np.median(patches[~is_object], axis=0)
        for flag, patch in zip(objects, patches, strict=True):
            distance[flag].append(float(np.abs(patch - ground).max()))
    assert np.median(distance["1"]) > 50
    assert np.median(distance["0"]) < 10
    assert np.mean(np.array(distance["1"]) > 25) > 0.9
