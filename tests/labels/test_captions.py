import json
from pathlib import Path

import pytest

from llava_sea.errors import UserError
from llava_sea.labels.captions import check_corpus, iter_caption_batches, iter_captions
from llava_sea.labels.json_stream import TextBlocks


def record(*turns: tuple[str, object], **fields: object) -> dict[str, object]:
    return {**fields, "conversations": [{"from": who, "value": value} for who, value in turns]}


def captions_of(path: Path, content: str) -> list[str]:
    path.write_text(content, encoding="utf-8")
    return list(iter_captions(TextBlocks(path)))


def test_gpt_turns_of_llava_records(tmp_path):
    records = [
        record(("human", "<image>\nWhat?"), ("gpt", "a cat"), id="1", image="1.jpg"),
        record(("human", "So?"), ("gpt", "one"), ("human", "And?"), ("gpt", "two")),
    ]
    assert captions_of(tmp_path / "a.json", json.dumps(records)) == ["a cat", "one", "two"]


def test_jsonl_takes_strings_objects_and_records(tmp_path):
    rows = ["a\u2028b", {"caption": "c"}, {"text": "d"}, record(("human", "?"), ("gpt", "e"))]
    content = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"
    assert captions_of(tmp_path / "a.jsonl", content) == ["a\u2028b", "c", "d", "e"]


def test_txt_is_one_caption_a_line(tmp_path):
    assert captions_of(tmp_path / "a.txt", "a cat\r\na dog") == ["a cat", "a dog"]


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ([1], "is a int, not an object"),
        ([{"id": "x7"}], r"\(id 'x7'\): has no list 'conversations'"),
        ([record(("human", "a"), id="x7")], r"\(id 'x7'\): has no caption"),
        ([record(("gpt", " \n"))], "'value' of gpt turn 0 is an empty caption"),
        ([record(("human", "?"), ("gpt", None))], "gpt turn 1 is missing or not a string: None"),
        ([{"conversations": [{"value": "a"}]}], "turn 0 is not an object with 'from' and 'value'"),
    ],
)
def test_bad_records_are_named(tmp_path, bad, expected):
    good = record(("gpt", "a cat"))
    content = "[" + json.dumps(good) + ",\n" + json.dumps(bad)[1:]
    with pytest.raises(UserError, match=r"a\.json, line 2, record 1.*" + expected):
        captions_of(tmp_path / "a.json", content)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "one\n\ntwo\n", r"a\.txt, line 2: is blank"),
        ("a.jsonl", '"one"\n{"a": 1}\n', r"a\.jsonl, line 2: holds no caption"),
        ("a.jsonl", '"one"\n{"a"\n', r"a\.jsonl, line 2: broken JSON"),
        ("a.jsonl", '{"caption": ""}', r"a\.jsonl, line 1: 'caption' is an empty caption"),
        ("a.jsonl", '{"text": 3}', r"a\.jsonl, line 1: 'text' is missing or not a string: 3"),
    ],
)
def test_bad_lines_are_named(tmp_path, name, content, expected):
    with pytest.raises(UserError, match=expected):
        captions_of(tmp_path / name, content)


def test_batches_are_bounded_by_captions_and_characters(tmp_path):
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("a\nb\nc\n")
    two.write_text("dddddddddd\ne\nf\n")
    batches = list(iter_caption_batches([one, two], max_captions=2, max_chars=8))
    assert [batch.captions for batch in batches] == [["a", "b"], ["c", "d" * 10], ["e", "f"]]
    assert batches[-1].bytes_read == check_corpus([one, two]) == 6 + 15


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], "give at least one file"),
        (["none.json"], r"none\.json: there is no such file"),
        (["a.csv"], r"a\.csv: the name must end in \.json, \.jsonl, \.txt"),
    ],
)
def test_corpus_files_are_checked_first(tmp_path, names, expected):
    with pytest.raises(UserError, match=expected):
        check_corpus([tmp_path / name for name in names])
