"""The formats of records and images that people have, and the cache that records are kept in."""

import io
import json
import os
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from llava_sea.check.__main__ import main as check
from llava_sea.data import image_source, read_records, record_cache
from llava_sea.data.dataset import LazySupervisedDataset
from llava_sea.data.image_source import open_images
from llava_sea.data.images import load_image
from llava_sea.data.problems import RecordError
from llava_sea.data.read_records import BrokenRow, read_rows
from llava_sea.data.records import Records, Turn, load_records, open_records
from llava_sea.errors import UserError
from llava_sea.labels.mine import CorpusImage, ImageLoader, corpus_images
from llava_sea.labels.options import CorpusOptions
from tests.worlds import command_line, parsed, record, turns

QUESTION, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
TEXT = {"type": "text", "text": "q"}
PAIR = {"user": "q", "assistant": "a"}


def png(colour=0):
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (colour, 0, 0)).save(out, "PNG")
    return out.getvalue()


def write(path, rows):
    """Write rows in the form that the file's name says."""
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))
    return str(path)


def tar(path, members, mode="w"):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, mode) as file:
        for name, data in members.items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return str(path)


# --- rows -----------------------------------------------------------------------------------------


def asked(*content):
    said = {"role": "assistant", "content": [{"type": "text", "text": "a"}]}
    return {"messages": [{"role": "user", "content": list(content)}, said]}


@pytest.mark.parametrize(
    ("row", "human", "images"),
    [
        ({"conversations": turns("<image>\nq", "a"), "image": "a.jpg"}, "<image>\nq", ["a.jpg"]),
        (
            {"conversations": turns("<image><image>", "a"), "images": ["a.jpg", "b.jpg"]},
            "<image><image>",
            ["a.jpg", "b.jpg"],
        ),
        ({"messages": [QUESTION, ANSWER]}, "q", []),
        ({"messages": [QUESTION, ANSWER], "images": ["a.jpg"]}, "<image>\nq", ["a.jpg"]),
        ({"messages": [QUESTION, ANSWER], "images": [{"path": "a.jpg"}]}, "<image>\nq", ["a.jpg"]),
        ({"messages": [{"role": "system", "content": ""}, QUESTION, ANSWER]}, "q", []),
        (asked({"type": "image", "image": "a.jpg"}, TEXT), "<image>\nq", ["a.jpg"]),
        (asked(TEXT, {"type": "image", "path": "a.jpg"}), "q\n<image>", ["a.jpg"]),
        (asked({"type": "image", "image": {"path": "a.jpg"}}, TEXT), "<image>\nq", ["a.jpg"]),
        (asked({"type": "image_url", "image_url": {"url": "a.jpg"}}), "<image>", ["a.jpg"]),
        (asked({"type": "image"}, TEXT) | {"images": ["a.jpg"]}, "<image>\nq", ["a.jpg"]),
        ({"texts": [PAIR]}, "q", []),
        (
            {"texts": [PAIR], "images": ["a.jpg", "b.jpg"]},
            "<image>\n<image>\nq",
            ["a.jpg", "b.jpg"],
        ),
        ({"conversations": None, "messages": None, "texts": [PAIR], "images": []}, "q", []),
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet"])
def test_rows_of_every_form(tmp_path, name, row, human, images):
    (found,) = load_records(write(tmp_path / name, [row]))
    assert found.turns == (Turn("human", human), Turn("gpt", "a"))
    assert list(found.images) == images and found.id == "0"


def test_a_system_turn_is_said_to_be_ignored(tmp_path):
    system = {"role": "system", "content": "be brief"}
    (found,) = load_records(write(tmp_path / "a.json", [{"messages": [system, QUESTION, ANSWER]}]))
    assert found.ignored == ("system",) and len(found.turns) == 2


HALF = "\ud83d"


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({}, '"conversations" .* missing.* "messages" and "texts"'),
        ({"messages": []}, '"messages" .* empty'),
        ({"messages": "q"}, '"messages" .* of type string'),
        ({"messages": [None]}, "turn 0 is from None"),
        ({"messages": [{"role": ["user"], "content": "q"}]}, r"turn 0 is from \['user'\]"),
        ({"messages": [QUESTION, {"role": "tool", "content": "q"}]}, "turn 1 is from 'tool'"),
        ({"messages": [QUESTION, {"role": "system", "content": "q"}]}, "turn 1 is from 'system'"),
        ({"messages": [{"role": "system", "content": "q"}]}, "nothing else"),
        ({"messages": [{"role": "user", "content": None}]}, 'turn 0 .* "content", it is None'),
        (asked("q"), "turn 0 has a part of type None"),
        (asked({"type": "video", "video": "a.mp4"}), "turn 0 has a part of type 'video'"),
        (asked({"type": "text", "text": None}), 'turn 0 needs its text in "text"'),
        (asked({"type": "image"}, TEXT), "an image in its turns has no name"),
        (asked({"type": "image", "image": 3}), '"image" must be a path .* it is 3'),
        (asked({"type": "image_url", "image_url": {"url": "http://a.b/c"}}), "http://a.b/c"),
        (asked({"type": "image", "image": "a.jpg"}) | {"images": ["a.jpg"]}, "keep one of them"),
        ({"texts": []}, '"texts" .* empty'),
        ({"texts": PAIR}, '"texts" .* of type object'),
        ({"texts": [PAIR, {"user": "q"}]}, 'pair 1 of "texts"'),
        ({"texts": [{"user": None, "assistant": "a"}]}, 'turn 0 needs its text in "user"'),
        ({"texts": [PAIR], "images": {"bytes": None, "path": None}}, '"images" must be a path'),
        ({"texts": [PAIR], "images": [{"bytes": "aGk="}]}, '"images" must be a path'),
        ({"texts": [PAIR], "images": ["data:image/png;base64,aGk="]}, "not below the image folder"),
        ({"texts": [PAIR], "videos": ["a.mp4"]}, 'has "videos", .* a video'),
        ({"texts": [PAIR], "image": HALF}, '"image" holds half a character'),
        ({"texts": [PAIR], "id": HALF}, '"id" holds half a character'),
        ({"texts": 3, "id": HALF}, '"id" holds half a character'),
        ({"texts": [PAIR], "image": [["x" * 999] * 99] * 99}, '"image" must be a path .{,600}$'),
    ],
)
def test_bad_rows_are_named(tmp_path, row, named):
    path = write(tmp_path / "a.json", [{"texts": [PAIR]}, row])
    with pytest.raises(RecordError, match=named) as caught:
        load_records(path)
    assert str(caught.value).startswith(f"{path}: record 1")


# --- parquet --------------------------------------------------------------------------------------


def held(name, colours):
    """A row of `colours`, its images in it, of the form that the name says."""
    images = [{"bytes": png(colour), "path": None} for colour in colours]
    if name == "recap":
        talk = turns("<image>\nq", "a")
        return {"id": "r", "image": images[0], "conversations": talk, "data_source": "x"}
    if name == "finevision":
        return {"images": images, "texts": [PAIR], "source": "x", "ratings": [1]}
    if name == "parts":
        parts = [{"type": "image", "image": image} for image in images]
        return asked(*parts, TEXT)
    return {"image": png(colours[0]), "messages": [QUESTION, ANSWER]}


@pytest.mark.parametrize("form", ["recap", "finevision", "parts", "binary"])
@pytest.mark.parametrize("small", [True, False])
def test_images_that_a_parquet_file_holds(tmp_path, monkeypatch, form, small):
    if not small:
        monkeypatch.setattr(record_cache, "SMALL_BYTES", 0)
    records = open_records(write(tmp_path / "a.parquet", [held(form, [n]) for n in (10, 20)]))
    assert [record.image for record in records] == ["a.parquet#0", "a.parquet#1"]
    assert all(record.turns[0].text == "<image>\nq" for record in records)
    source = open_images(None, records)
    red = [load_image(source, r.image, r.id).image.getpixel((0, 0))[0] for r in records]
    assert red == [10, 20]
    assert "a.parquet#2" not in source and "b.parquet#0" not in source


def test_several_images_of_a_row(tmp_path):
    records = open_records(write(tmp_path / "a.parquet", [held("finevision", [10, 20])]))
    assert records[0].images == ("a.parquet#0.0", "a.parquet#0.1")
    source = open_images(None, records)
    red = [load_image(source, name, "r").image.getpixel((0, 0))[0] for name in records[0].images]
    assert red == [10, 20]
    assert "a.parquet#0.2" not in source


def test_more_rows_than_are_read_at_a_time(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [record(n, None, "q", "a") for n in range(3 * read_records._ROWS + 1)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=100)
    assert [int(found.id) for found in open_records(path)] == list(range(len(rows)))


def test_bytes_and_paths_in_one_row(tmp_path):
    images = [{"bytes": png(), "path": None}, {"bytes": None, "path": "a.jpg"}]
    path = write(tmp_path / "a.parquet", [{"texts": [PAIR], "images": images}])
    with pytest.raises(RecordError, match=r"record 0 .*some .* bytes and some are paths"):
        open_records(path)


def not_utf8():
    ends = np.array([0, 1], np.int32)
    texts = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(ends), pa.py_buffer(b"\xff")])
    return pa.table({"id": texts, "texts": pa.array([[PAIR]])})


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda data: data[:-9], "no parquet file, or a torn one"),
        (lambda data: data[: len(data) // 2], "no parquet file, or a torn one"),
        (lambda data: b"", "no parquet file, or a torn one"),
        (lambda data: b"[]", "no parquet file, or a torn one"),
        (lambda data: data[:4] + bytes(200) + data[204:], "record 0: row group 0 .* damaged"),
        (not_utf8, "record 0: row group 0 .* damaged"),
        (lambda: pa.table({"id": pa.array([], pa.string())}), "no records"),
        (lambda: pa.table({"x": [1]}), r"record 0 \(id '0'\): \"conversations\" .* missing"),
    ],
)
def test_bad_parquet_files(tmp_path, edit, named):
    path = tmp_path / "a.parquet"
    if edit.__code__.co_argcount:
        write(path, [record(n, None, "q", "a") for n in range(9)])
        path.write_bytes(edit(path.read_bytes()))
    else:
        pq.write_table(edit(), path)
    with pytest.raises(UserError, match=named) as caught:
        open_records(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_folder_of_a_parquet_files_name(tmp_path):
    (tmp_path / "a.parquet").mkdir()
    with pytest.raises(UserError, match=r"a\.parquet: is a folder"):
        open_records(tmp_path / "a.parquet")


# --- several files --------------------------------------------------------------------------------


def files(tmp_path):
    one = [record(f"a{n}", None, "q", "a b") for n in range(4)]
    two = [record(f"b{n}", "x.jpg", "<image>\nq", "a") for n in range(10)]
    return write(tmp_path / "a.json", one), write(tmp_path / "b.parquet", two)


def test_weights(tmp_path):
    one, two = files(tmp_path)
    records = open_records([f"{one}:2", f"{two}:0.5"])
    ids = [found.id for found in records]
    assert ids[:8] == ["a0", "a1", "a2", "a3"] * 2
    assert len(set(ids[8:])) == 5 and ids[8:] == sorted(ids[8:])
    assert [found.index for found in records] == list(range(13))
    assert ids == [found.id for found in open_records([f"{one}:2", f"{two}:0.5"])]
    assert records.num_images.tolist() == [0] * 8 + [1] * 5
    assert records.words.tolist() == [3] * 13
    assert list(records.first_images()) == [None] * 8 + ["x.jpg"] * 5
    assert [found.id for found in records[-2:]] == ids[-2:] and records[-1].id == ids[-1]
    assert len(open_records(f"{one}:1.5")) == 6
    assert [found.id for found in Records.of_files([f"{one}:2"], weighted=False)] == ids[:4]


def test_a_corpus_is_the_same_in_another_process(tmp_path):
    path = write(tmp_path / "a.json", [record(n, None, "q", "a") for n in range(300)])
    (tmp_path / "a.json:1").write_text("[]")  # no weight: a file of that name is there
    opened = open_records([f"{path}:0.333333333"])
    make, arguments = opened.__reduce__()
    assert list(make(*arguments)) == list(opened)


def test_weights_tell_corpora_apart(tmp_path):
    one, two = files(tmp_path)
    named = [[one], [one, two], [two, one], [f"{one}:2"], [f"{one}:2.5"], [f"{one}:2.5000001"]]
    assert len({open_records(paths).sha256 for paths in named}) == len(named)


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "1e9", "0.01"])
def test_bad_weights(tmp_path, weight):
    path = write(tmp_path / "a.json", [record(0, None, "q", "a")])
    for weighted in (True, False):  # training's and the checker's
        with pytest.raises(UserError, match=f"{path}:{weight}.* weight"):
            Records.of_files([f"{path}:{weight}"], weighted=weighted)


def test_a_colon_in_a_files_name(tmp_path):
    path = write(tmp_path / "a:2", [record(0, None, "q", "a")])
    assert len(open_records(path)) == 1 and len(open_records(f"{path}:3")) == 3
    with pytest.raises(UserError, match="a:x: cannot be read"):
        open_records(str(tmp_path / "a:x"))


def test_two_parquet_files_of_one_name(tmp_path):
    paths = [write(tmp_path / folder / "a.parquet", [held("recap", [1])]) for folder in "xy"]
    with pytest.raises(UserError, match=r"x/a\.parquet and .*y/a\.parquet have one name"):
        open_records(paths)
    roundabout = str(tmp_path / "x" / ".." / "x" / "a.parquet")
    assert len(open_records([paths[0], roundabout])) == 2


def test_faults_are_placed_in_their_file(tmp_path):
    one, _ = files(tmp_path)
    bad = write(tmp_path / "c.jsonl", [record(0, None, "q", "a"), {"id": "x"}])
    records = Records.of_files([one, bad])
    assert records.faults() == [5]
    fault = records.item(5)
    assert isinstance(fault, RecordError)
    assert str(fault).startswith(f"{bad}: record 1 (id 'x')")
    assert str(records.first_fault) == str(fault)


# --- images ---------------------------------------------------------------------------------------


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


# --- the cache ------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of caches, where every file has one, however small it is."""
    monkeypatch.setattr(record_cache, "SMALL_BYTES", -1)
    monkeypatch.setenv("LLAVA_SEA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "records"


@pytest.fixture
def reads(monkeypatch):
    """How often a data file has been read."""
    done = []
    read = record_cache.read_records
    monkeypatch.setattr(
        record_cache, "read_records", lambda path: (done.append(path), read(path))[1]
    )
    return done


ROWS = [
    {"id": "ä", "image": "a.jpg", "conversations": turns("<image>\nq\0", "a 🚤")},
    {"texts": [PAIR, PAIR], "images": ["a.jpg", "b.jpg"]},
    {"id": 7, "system": "x", "conversations": turns("", "a")},
]


def test_a_cache_is_made_once(tmp_path, cache, reads):
    path = write(tmp_path / "a.json", ROWS)
    first = load_records(path)
    for _ in range(2):
        assert load_records(path) == first
    os.utime(path, (1, 1))
    assert load_records(path) == first
    assert len(reads) == 1, "read again, or for a new time of the same bytes"
    write(tmp_path / "a.json", ROWS[::-1])
    assert [found.id for found in load_records(path)] == ["7", "1", "ä"]
    assert len(reads) == 2
    assert sorted(file.suffix for file in cache.iterdir()) == [".arrow", ".json", ".lock"]


def test_the_cache_gives_what_the_file_does(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(record_cache, "_BATCH_ROWS", 2)
    path = write(tmp_path / "a.json", ROWS * 3)
    mapped, sizes = load_records(path), open_records(path)
    monkeypatch.setattr(record_cache, "SMALL_BYTES", 2**20)
    assert mapped == load_records(path)
    assert sizes.words.tolist() == [4, 6, 1] * 3 and sizes.num_images.tolist() == [1, 2, 0] * 3
    assert sizes[1].images == ("a.jpg", "b.jpg") and sizes[2].ignored == ("system",)


def test_a_cache_made_again_gives_the_same(tmp_path, cache, reads):
    path = write(tmp_path / "a.json", ROWS)
    first = load_records(path)
    (made,) = cache.glob("*.arrow")
    data = made.read_bytes()
    for file in cache.iterdir():
        file.unlink()
    assert load_records(path) == first and len(reads) == 2
    assert made.read_bytes() == data


def other_table():
    sink = pa.BufferOutputStream()
    pa.ipc.new_file(sink, pa.schema({"x": pa.int32()})).close()
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: bytes(len(data)),
        lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
        lambda data: data.replace(record_cache.FORMAT.encode(), b"llava_sea records 0"),
        lambda data: other_table(),
    ],
)
def test_a_damaged_cache_is_made_again(tmp_path, cache, reads, damage):
    path = write(tmp_path / "a.json", ROWS)
    first = load_records(path)
    (made,) = cache.glob("*.arrow")
    data = made.read_bytes()
    made.unlink()  # not into the file that is mapped
    made.write_bytes(damage(data))
    assert load_records(path) == first and len(reads) == 2
    assert made.read_bytes() == data


def test_faults_are_kept(tmp_path, cache, reads):
    path = tmp_path / "a.jsonl"
    path.write_text(
        "\n".join([json.dumps(ROWS[0]), '{"id": 1', '{"id": "x"}', json.dumps(ROWS[1])])
    )
    opened = [Records.of_files(path) for _ in range(2)]
    told = [[str(records.item(n)) for n in records.faults()] for records in opened]
    assert told[0] == told[1] and len(reads) == 1
    assert "record 1: broken JSON at line 2, column 9" in told[0][0]
    assert "record 2 (id 'x')" in told[0][1]


@pytest.mark.parametrize("content", ["", "[]", '{"id": 1}', b"[\xff]"])
def test_a_refused_file_leaves_no_cache(tmp_path, cache, content):
    path = tmp_path / "a.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for _ in range(2):
        with pytest.raises(UserError, match=r"a\.json: "):
            open_records(path)
    assert [file.suffix for file in cache.iterdir()] == [".lock"]


def test_two_processes_make_it_once(tmp_path, cache, monkeypatch, fork):
    path = write(tmp_path / "a.json", ROWS)
    read = record_cache.read_records

    def slowly(path):
        with open(tmp_path / "reads", "a") as file:
            file.write("x")
        for row in read(path):
            time.sleep(0.1)
            yield row

    monkeypatch.setattr(record_cache, "read_records", slowly)
    ranks = fork(lambda: print(len(load_records(path)), "records"))
    assert [rank.process.exitcode for rank in ranks] == [0, 0]
    assert all("3 records" in rank.log.read_text() for rank in ranks)
    assert (tmp_path / "reads").read_text() == "x"


def test_a_file_that_changes_while_it_is_read(tmp_path, cache, monkeypatch):
    path = tmp_path / "a.json"
    write(path, ROWS)
    read = record_cache.read_records

    def changing(name):
        path.write_text(path.read_text() + " ")
        return read(name)

    monkeypatch.setattr(record_cache, "read_records", changing)
    with pytest.raises(UserError, match=r"a\.json: changed while it was read"):
        open_records(path)
    assert not list(cache.glob("*.arrow"))


def test_no_room_for_the_cache(tmp_path, cache, file_limit):
    path = write(tmp_path / "a.json", ROWS)
    file_limit(1000)
    with pytest.raises(UserError, match=r"cache/records/.*\.arrow: .*LLAVA_SEA_CACHE"):
        open_records(path)
    assert [file.suffix for file in cache.iterdir()] == [".lock"]


def test_a_file_in_the_place_of_the_cache(tmp_path, cache):
    path = write(tmp_path / "a.json", ROWS)
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match=r"cache/records: .*LLAVA_SEA_CACHE"):
        open_records(path)


# --- JSON lists in pieces -------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


def rows_of(path, data, monkeypatch, piece):
    path.write_bytes(data)
    monkeypatch.setattr(read_records, "_PIECE", piece)
    return list(read_rows(path))


@given(st.lists(values, max_size=5), st.booleans(), st.sampled_from([None, 1]), st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_are_read_as_json_reads_the_whole(tmp_path, monkeypatch, rows, ascii, indent, data):
    text = json.dumps(rows, ensure_ascii=ascii, indent=indent)
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        encoded = json.dumps(rows, indent=indent).encode()
    piece = data.draw(st.integers(1, 12))
    assert rows_of(tmp_path / "a.json", encoded, monkeypatch, piece) == json.loads(encoded)


BROKEN = ['["ä", {"k":\n [1.5e+5, "\\u00e4\\ud83d\\ude00"]},\r\n -12.5e-3, true , null\n]\n']


@pytest.mark.parametrize("piece", [1, 7, 4096])
def test_a_list_cut_at_every_byte(tmp_path, monkeypatch, piece):
    data = BROKEN[0].encode()
    whole = json.loads(data)
    for cut in range(1, len(data)):
        try:
            data[:cut].decode()
        except UnicodeDecodeError:
            with pytest.raises(UserError, match="not UTF-8"):
                rows_of(tmp_path / "a.json", data[:cut], monkeypatch, piece)
            continue
        found = rows_of(tmp_path / "a.json", data[:cut], monkeypatch, piece)
        try:
            assert found == json.loads(data[:cut])
        except json.JSONDecodeError as error:
            *before, broken = found
            assert isinstance(broken, BrokenRow)
            if before and isinstance(before[-1], float | int) and data[cut - 1 : cut] != b"\n":
                before.pop()  # a number that is cut is a number
            assert before == whole[: len(before)]
            assert f"line {error.lineno}, column {error.colno}" in str(broken)


@pytest.mark.parametrize("piece", [1, 7, 4096])
def test_places_are_json_s_own(tmp_path, monkeypatch, piece):
    text = BROKEN[0]
    for place in range(1, len(text)):
        for wrong in '}],:"\\x\n':
            broken = (text[:place] + wrong + text[place + 1 :]).encode()
            try:
                expected = json.loads(broken)
            except json.JSONDecodeError as error:
                at = f"line {error.lineno}, column {error.colno}: {error.msg}"
                last = rows_of(tmp_path / "a.json", broken, monkeypatch, piece)[-1]
                assert at in str(last), broken
            else:
                assert rows_of(tmp_path / "a.json", broken, monkeypatch, piece) == expected


def test_a_value_without_an_end_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(read_records, "_LONGEST", 2**20)
    path = tmp_path / "a.json"
    path.write_text('[1,\n"' + "x" * 2**22)
    monkeypatch.setattr(read_records, "_PIECE", 2**16)
    one, broken = read_rows(path)
    assert one == 1
    assert "over 1 MB begins at line 2, column 1" in str(broken)
