"""Rows of every form, parquet, several files with weights; bad ones name file and record."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llava_sea.data import read_records, record_cache
from llava_sea.data.image_source import open_images
from llava_sea.data.images import load_image
from llava_sea.data.problems import RecordError
from llava_sea.data.records import Records, Turn, load_records, open_records
from llava_sea.errors import UserError
from tests.data.format_files import ANSWER, PAIR, QUESTION, TEXT, asked, held, png, write
from tests.worlds import record, turns

# --- rows -----------------------------------------------------------------------------------------


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


def test_turns_in_a_second_form_are_said_to_be_ignored(tmp_path):
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    row = {"conversations": turns, "messages": [QUESTION, ANSWER], "texts": []}
    (found,) = load_records(write(tmp_path / "a.json", [row]))
    assert found.ignored == ("messages",) and found.turns[0].text == "q"


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
