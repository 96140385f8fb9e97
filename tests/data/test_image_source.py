"""Images in tar shards and in parquet files, read by training, mining and the checker."""

import os
from pathlib import Path

import pytest

from llava_sea.check.__main__ import main as check
from llava_sea.data import image_source
from llava_sea.data.dataset import LazySupervisedDataset
from llava_sea.data.image_source import open_images
from llava_sea.data.images import load_image
from llava_sea.data.problems import RecordError
from llava_sea.data.records import Records, open_records
from llava_sea.errors import UserError
from llava_sea.labels.mine import CorpusImage, ImageLoader, corpus_images
from llava_sea.labels.options import CorpusOptions
from tests.data.format_files import held, png, tar, write
from tests.worlds import command_line, parsed, record


def look(folder, names, tmp_path):
    """Return the red of each image that is read."""
    rows = [record(n, name, "<image>", "a") for n, name in enumerate(names)]
    source = open_images(str(folder), open_records(write(tmp_path / "r.json", rows)))
    return [load_image(source, name, "r").image.getpixel((0, 0))[0] for name in names]


@pytest.mark.parametrize("small", [True, False])
def test_images_of_tar_shards(tmp_path, monkeypatch, small):
    if not small:
        monkeypatch.setattr(image_source, "SMALL_BYTES", 0)
    folder = tmp_path / "shards"
    tar(folder / "0.tar", {"./a/0.png": png(10), "a/0.txt": b"text", "1.png": png(20)})
    tar(folder / "1.tar", {f"{'long' * 40}.png": png(30)})
    (folder / "beside.png").write_bytes(png(40))
    (folder / "2.tar").mkdir()  # no shard
    names = ["a/0.png", "./1.png", f"{'long' * 40}.png", "beside.png"]
    for _ in range(2):  # made, and found again
        assert look(folder, names, tmp_path) == [10, 20, 30, 40]
    assert look(folder / "0.tar", names[:2], tmp_path) == [10, 20]
    with pytest.raises(RecordError, match=r"record 'r': .*shards: no shard holds none\.png"):
        look(folder, ["none.png"], tmp_path)
    with pytest.raises(RecordError, match=r"record 'r': .*0\.tar: no shard holds none\.png"):
        look(folder / "0.tar", ["none.png"], tmp_path)
    tar(folder / "1.tar", {"a/1.png": png(50), f"{'long' * 40}.png": png(60)})
    assert look(folder, ["a/1.png", names[2]], tmp_path) == [50, 60]


def break_at(place):
    return lambda data: data[:place] + b"?" * 512 + data[place + 512 :]


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda data: data[:700], "torn"),
        (lambda data: data[:1500], "torn"),
        (lambda data: data[:512], "torn"),
        (lambda data: data[:2], "torn"),
        (lambda data: b"", "torn"),
        (lambda data: png() * 99, "no uncompressed tar"),
        (break_at(0), "no uncompressed tar"),
        (break_at(1024), "a broken header at byte 1,024"),
    ],
)
def test_torn_tars(tmp_path, edit, named):
    path = tmp_path / "a.tar"
    tar(path, {f"{n}.png": png() for n in range(3)})
    path.write_bytes(edit(path.read_bytes()))
    with pytest.raises(UserError, match=named) as caught:
        look(path, ["0.png"], tmp_path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda path: tar(path, {"0.png": png()}, "w:gz"), "no uncompressed tar"),
        (lambda path: os.mkfifo(path), "is a pipe"),
        (lambda path: None, "cannot be read"),
        (lambda path: tar(path, [("0.png", png())] * 2), "'0.png' twice"),
        (lambda path: tar(path, {"0.png": b"no image"}), r"a\.tar: 0\.png: .* decoded"),
    ],
)
def test_what_is_no_tar_of_images(tmp_path, make, named):
    make(tmp_path / "a.tar")
    with pytest.raises(UserError, match=named):
        look(tmp_path / "a.tar", ["0.png"], tmp_path)


def test_a_name_in_two_tars(tmp_path):
    one = tar(tmp_path / "x" / "0.tar", {"a.png": png(), "b.png": png(), "c.png": png()})
    two = tar(tmp_path / "x" / "1.tar", {"b.png": png(), "./c.png": png()})
    with pytest.raises(UserError, match=f"{one} and {two}: '[bc].png' .* 1 more name"):
        look(tmp_path / "x", ["a.png"], tmp_path)


def test_images_beyond_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("llava_sea.data.images.IMAGE_BYTES", 10)
    tar(tmp_path / "a.tar", {"0.png": png()})
    with pytest.raises(RecordError, match=r"a\.tar: 0\.png has [\d,]+ bytes, the limit is 10"):
        look(tmp_path / "a.tar", ["0.png"], tmp_path)
    records = open_records(write(tmp_path / "a.parquet", [held("recap", [1])]))
    with pytest.raises(RecordError, match=r"a\.parquet#0 has [\d,]+ bytes, the limit is 10"):
        load_image(open_images(None, records), records[0].image, "r")


def test_a_tar_cut_off_after_it_was_opened(tmp_path):
    path = Path(tar(tmp_path / "a.tar", {"0.png": png()}))
    source = open_images(str(path), [parsed("<image>", "a", image="0.png")])
    path.write_bytes(path.read_bytes()[:520])
    with pytest.raises(RecordError, match=r"record 'r': .*a\.tar: ends within 0\.png"):
        load_image(source, "0.png", "r")


def test_a_folder_called_tar(tmp_path):
    (tmp_path / "a.tar").mkdir()
    (tmp_path / "a.tar" / "0.png").write_bytes(png(10))
    assert look(tmp_path / "a.tar", ["0.png"], tmp_path) == [10]


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"damaged" * 50])
def test_a_damaged_index_is_made_again(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(image_source, "SMALL_BYTES", 0)
    monkeypatch.setenv("LLAVA_SEA_CACHE", str(tmp_path / "cache"))
    path = tar(tmp_path / "a.tar", {"0.png": png(10)})
    assert look(path, ["0.png"], tmp_path) == [10]
    (index,) = (tmp_path / "cache" / "shards").glob("*.npy")
    index.unlink()
    index.write_bytes(damage)
    assert look(path, ["0.png"], tmp_path) == [10]


def test_no_image_folder(tmp_path):
    named = write(tmp_path / "a.json", [record(0, "a.jpg", "<image>", "a")])
    holding = write(tmp_path / "b.parquet", [held("recap", [1])])
    text = write(tmp_path / "c.json", [record(0, None, "q", "a"), {"id": "faulty"}])
    for paths in ([named], [named, holding]):
        with pytest.raises(UserError, match="--image_folder is missing"):
            open_images(None, open_records(paths))
    open_images(None, open_records(holding))
    open_images(None, Records.of_files(text))

    options = CorpusOptions(data_path=named)
    with pytest.raises(UserError, match="--image_folder is missing"):
        corpus_images(options)


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_the_checker_names_each_record(tiny, tmp_path, capsys, kind):
    images = {"0.png": png(), "1.png": png()[:-30], "2.png": png()}
    rows = [record(f"r{n}", name, "<image>", "a ball") for n, name in enumerate(images)]
    rows[2]["conversations"] = []
    flags = {"model_name_or_path": tiny.llm, "vision_tower": tiny.clip, "version": "plain"}
    if kind == "tar":
        flags["image_folder"] = tar(tmp_path / "a.tar", images)
        rows.append(record("r3", "3.png", "<image>", "a ball"))
        flags["data_path"] = write(tmp_path / "d.json", rows)
    else:
        rows = [{**row, "image": {"bytes": images[row["image"]], "path": "x"}} for row in rows]
        flags["data_path"] = write(tmp_path / "d.parquet", rows)
    assert check([str(flag) for flag in command_line(flags)]) == 1
    out, path = capsys.readouterr().out, flags["data_path"]
    told = [line for line in out.splitlines() if line.startswith(f"{path}: record ")]
    place = f"{tmp_path / 'a.tar'}: 1.png" if kind == "tar" else "d.parquet#1"
    assert told[0].startswith(f"{path}: record 1 (id 'r1'): image damaged: {place}: ")
    assert told[1].startswith(f"{path}: record 2 (id 'r2'): record shape: ")
    assert len(told) == (3 if kind == "tar" else 2)
    assert kind != "tar" or "record 3 (id 'r3'): image missing: " in told[2]


@pytest.fixture(params=["folder", "shards", "tar", "parquet"])
def corpus(request, tmp_path):
    """Two records, and the image folder of a corpus in each of the ways to keep images."""
    images = {"0.png": png(10), "1.png": png(20)}
    rows = [record(n, name, "<image>", "a boat") for n, name in enumerate(images)]
    if request.param == "parquet":
        rows = [{**row, "image": images[row["image"]]} for row in rows]
        return write(tmp_path / "d.parquet", rows), None
    folder = tmp_path / "images"
    folder.mkdir()
    if request.param == "folder":
        for name, data in images.items():
            (folder / name).write_bytes(data)
    else:
        tar(folder / "0.tar", images)
    place = folder / "0.tar" if request.param == "tar" else folder
    return write(tmp_path / "d.json", rows), str(place)


def test_training_reads_every_kind(corpus, clip_transform, plain, byte_level_tokenizer):
    path, folder = corpus
    records = open_records(path)
    source = open_images(folder, records)
    data = LazySupervisedDataset(
        records, source, clip_transform, plain, byte_level_tokenizer,
        image_tokens=16, model_max_length=64,
    )  # fmt: skip
    first, second = (data[n]["pixel_values"] for n in range(2))
    assert first.shape == second.shape and not first.equal(second)


def test_mining_reads_every_kind(corpus, tiny):
    path, folder = corpus
    options = CorpusOptions(
        data_path=path, image_folder=folder, vision_tower=str(tiny.clip), words=str(tiny.words)
    )
    images = [CorpusImage(found.image, found.id) for found in open_records(path)]
    (batch,) = ImageLoader(options).batches(images)
    assert batch.rows == [0, 1] and not batch.skipped
    assert not batch.pixels_BCHW[0].equal(batch.pixels_BCHW[1])
