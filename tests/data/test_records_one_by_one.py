"""A data file record by record: the good ones as `load_records` has them, errors in their place."""

import json

import pytest

from llava_sea.data.problems import BAD_SHAPE, BROKEN_JSON, RecordError
from llava_sea.data.records import Record, load_records, parse_records
from llava_sea.errors import UserError

TALK = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a"}]


def good(n):
    return {"id": f"r{n}", "image": f"{n}.jpg", "conversations": TALK}


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_good_files_are_the_same(tmp_path, name):
    rows = [json.dumps(good(n)) for n in range(4)]
    text = "\n\n".join(rows) if name == "a.jsonl" else f"[{', '.join(rows)}]"
    path = write(tmp_path, name, text)
    assert list(parse_records(path)) == load_records(path)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_bad_records_stand_in_their_place(tmp_path, name):
    rows = [good(0), {"id": 7}, "text", {"id": [1], "conversations": TALK}, good(4)]
    texts = [json.dumps(row) for row in rows]
    text = "\n".join(texts) if name == "a.jsonl" else f"[{','.join(texts)}]"
    path = write(tmp_path, name, text)
    found = list(parse_records(path))
    assert [type(item) for item in found] == [Record, *[RecordError] * 3, Record]
    assert [item.index for item in found] == [0, 1, 2, 3, 4]
    assert [item.id for item in found] == ["r0", "7", None, None, "r4"]
    assert all(item.kind is BAD_SHAPE and item.file == str(path) for item in found[1:4])
    with pytest.raises(UserError) as caught:
        load_records(path)
    assert str(caught.value) == str(found[1])


def test_every_broken_line_of_json_lines(tmp_path):
    rows = [json.dumps(good(0)), '{"id": 1', json.dumps(good(2)), "]", json.dumps(good(4))]
    path = write(tmp_path, "a.jsonl", "\n".join(rows))
    found = list(parse_records(path))
    kinds = [getattr(item, "kind", None) for item in found]
    assert kinds == [None, BROKEN_JSON, None, BROKEN_JSON, None]
    assert [found[n].what.split(": ")[0] for n in (1, 3)] == [
        "broken JSON at line 2, column 9",
        "broken JSON at line 4, column 1",
    ]
    assert found[4] == Record(4, "r4", "4.jpg", found[0].turns)


@pytest.mark.parametrize(
    ("text", "before"),
    [
        ("[\n{0},\n{1},\n{{]", 2),
        ("[{0},\n {1}\n {0}]", 2),
        ("[{0}, {1}", 2),
        ("[", 0),
        ("[{0},]", 1),
        ("[{0}] {1}", 1),
    ],
)
def test_a_broken_list_gives_what_stands_before(tmp_path, text, before):
    path = write(tmp_path, "a.json", text.format(json.dumps(good(0)), json.dumps(good(1))))
    *records, broken = parse_records(path)
    assert [record.id for record in records] == ["r0", "r1"][:before]
    assert (broken.index, broken.id, broken.kind) == (before, None, BROKEN_JSON)
    with pytest.raises(UserError) as caught:
        load_records(path)
    assert str(caught.value) == str(broken)


@pytest.mark.parametrize("text", ['{"id": 1}', '{"id": 1}\n{"id": 2}', "[]", "", "7"])
def test_no_list_at_all(tmp_path, text):
    path = write(tmp_path, "a.json", text)
    with pytest.raises(UserError) as expected:
        load_records(path)
    with pytest.raises(UserError) as caught:
        list(parse_records(path))
    assert str(caught.value) == str(expected.value)
