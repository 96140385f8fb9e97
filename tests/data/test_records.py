"""Data files as LLaVA's users have them, and bad ones: file, record and way out are named."""

import json

import pytest

from llava_sea.data.problems import BAD_SHAPE, BROKEN_JSON, RecordError
from llava_sea.data.records import Record, Turn, load_records, parse_records
from llava_sea.errors import UserError
from tests.worlds import record, turns

TALK = turns("<image>\nWas ist das?", "Ein Böötchen")
TURNS = (Turn("human", TALK[0]["value"]), Turn("gpt", TALK[1]["value"]))
SAID = json.dumps({"conversations": turns("a")})


def good(n):
    return record(f"r{n}", f"{n}.jpg", "<image>", "a")


def test_a_json_list(tmp_path):
    rows = [
        {"id": "000417", "image": "00041/000417.jpg", "conversations": TALK},
        {"id": 12, "model": "other keys are left alone", "conversations": TALK},
        {"image": ["one.jpg"], "conversations": TALK},
        {"id": "none", "image": None, "video": None, "images": [], "conversations": TALK},
    ]
    path = tmp_path / "data.json"
    path.write_text(json.dumps(rows))
    assert load_records(path) == [
        Record(0, "000417", "00041/000417.jpg", TURNS),
        Record(1, "12", None, TURNS),
        Record(2, "2", "one.jpg", TURNS),
        Record(3, "none", None, TURNS),
    ]
    assert load_records(str(path))[1].name == "record 1 (id '12')"


def test_json_lines(tmp_path):
    path = tmp_path / "data.jsonl"
    rows = [json.dumps({"id": n, "conversations": TALK}, ensure_ascii=False) for n in range(3)]
    path.write_text("\n".join([*rows[:2], "", rows[2], ""]), encoding="utf-8")
    assert load_records(path) == [Record(n, str(n), None, TURNS) for n in range(3)]


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "data.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps([{"conversations": TALK}]).encode())
    assert len(load_records(path)) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.json",
            "[\n" + SAID + ',\n{"id": }\n]',
            "record 1: broken JSON at line 3, column 8",
        ),
        (
            "a.jsonl",
            SAID + '\n\n{"id": 1',
            "a.jsonl: record 1: broken JSON at line 3, column 9",
        ),
        (
            "a.json",
            '{"id": 1}\n{"id": 2}',
            "more from line 2, column 1 on; .* one record a line, name it .jsonl",
        ),
        ("a.json", "[]\n[]", "broken JSON at line 2, column 1: Extra data"),
        ("a.jsonl", '{"id": 1} {"id": 2}', "broken JSON at line 1, column 11: Extra data"),
        ("a.json", "", "the file is empty"),
        ("a.jsonl", "", "the file is empty"),
        ("a.json", "[" * 200_000, "nested too deep"),
        ("a.json", f"[{'9' * 5000}]", "broken JSON from line 1 on: Exceeds the limit"),
        ("a.jsonl", f"\n{'9' * 5000}", "broken JSON from line 2 on: Exceeds the limit"),
        ("a.json", '{"id": 1}', "holds one object, not a list of records"),
        ("a.json", "[]", "holds no records"),
        ("a.jsonl", "\n\n", "holds no records"),
        ("a.json", b"[\xff]", "not UTF-8 text .byte 1."),
    ],
)
def test_broken_files(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        load_records(path)


@pytest.mark.parametrize("what", ["missing.json", "."])
def test_no_file(tmp_path, what):
    with pytest.raises(UserError, match=r"cannot be read|is a folder"):
        load_records(tmp_path / what)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("text", "record 1: is a string, not an object"),
        ({"id": 7}, r'\(id .7.\): "conversations" .* it is missing'),
        ({"id": 7, "conversations": []}, '"conversations" .* it is empty'),
        ({"id": 7, "conversations": {}}, '"conversations" .* it is of type object'),
        ({"id": [7], "conversations": TALK}, '"id" must be a string or a whole number'),
        ({"id": True, "conversations": TALK}, '"id" must be a string or a whole number'),
        ({"id": "x", "image": 3, "conversations": TALK}, r"\(id 'x'\): \"image\" .* it is 3"),
        ({"id": "x", "image": "", "conversations": TALK}, '"image" must be a path'),
        ({"id": "x", "image": ["a", ""], "conversations": TALK}, "or a list of them, it is ''"),
        (
            {"image": "a.jpg", "images": ["a.jpg"], "conversations": TALK},
            'has "image" and "images"',
        ),
        ({"image": "a.jpg", "video": "a.mp4", "conversations": TALK}, 'has "video", .* a video'),
        ({"conversations": ["hi"]}, r"record 1 \(id .1.\): turn 0 is from None"),
        ({"conversations": [{"from": "user", "value": "x"}]}, "turn 0 is from 'user'; LLaVA's"),
        ({"conversations": [TALK[0], {"from": "gpt"}]}, 'turn 1 needs its text in "value"'),
        ({"conversations": [{"from": "gpt", "value": "a\ud83d"}]}, "turn 0 holds half a character"),
    ],
)
def test_wrong_shapes_name_the_record(tmp_path, row, message):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{"id": 0, "conversations": TALK}, row]))
    with pytest.raises(UserError, match=message) as caught:
        load_records(path)
    assert str(caught.value).startswith(f"{path}: record 1")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_bad_records_stand_in_their_place(tmp_path, name):
    rows = [good(0), {"id": 7}, "text", {"id": [1], "conversations": TALK}, good(4)]
    texts = [json.dumps(row) for row in rows]
    text = "\n".join(texts) if name == "a.jsonl" else f"[{','.join(texts)}]"
    path = tmp_path / name
    path.write_text(text)
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
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(rows))
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
    path = tmp_path / "a.json"
    path.write_text(text.format(json.dumps(good(0)), json.dumps(good(1))))
    *records, broken = parse_records(path)
    assert [record.id for record in records] == ["r0", "r1"][:before]
    assert (broken.index, broken.id, broken.kind) == (before, None, BROKEN_JSON)
    with pytest.raises(UserError) as caught:
        load_records(path)
    assert str(caught.value) == str(broken)
