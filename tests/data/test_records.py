"""Data files as LLaVA's users have them."""

import json

from llava_sea.data.records import Record, Turn, load_records

TALK = [
    {"from": "human", "value": "<image>\nWas ist das?"},
    {"from": "gpt", "value": "Ein Böötchen"},
]
TURNS = (Turn("human", "<image>\nWas ist das?"), Turn("gpt", "Ein Böötchen"))


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
