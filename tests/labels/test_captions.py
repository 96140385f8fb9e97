import json
from pathlib import Path

import pytest

from llava_sea.errors import UserError
from llava_sea.labels.word_list import check_corpus, read_captions


def record(*turns: tuple[str, object], **fields: object) -> dict[str, object]:
    return {**fields, "conversations": [{"from": who, "value": value} for who, value in turns]}


def captions_of(path: Path, content: str | bytes) -> list[str]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_captions(path))


ROWS = ["a\u2028b", {"caption": "c"}, {"text": "d"}, record(("human", "?"), ("gpt", "e"))]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "a.json",
            json.dumps(
                [
                    record(("human", "<image>\nWhat?"), ("gpt", "a cat"), id="1", image="1.jpg"),
                    record(("human", "So?"), ("gpt", "one"), ("human", "And?"), ("gpt", "two")),
                ],
                indent=1,
            ),
            ["a cat", "one", "two"],
        ),
        ("a.json", b"\xef\xbb\xbf[]", []),
        (
            "a.jsonl",
            "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n",
            ["a\u2028b", "c", "d", "e"],
        ),
        ("a.txt", "\ufeffa cat\r\na dog", ["a cat", "a dog"]),
    ],
)
def test_captions_of_every_kind_of_file(tmp_path, name, content, expected):
    assert captions_of(tmp_path / name, content) == expected


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ([1], "holds no caption"),
        ([{"id": "x7"}], r"\(id 'x7'\): holds no caption"),
        ([record(("human", "a"), id="x7")], r"\(id 'x7'\): holds no caption"),
        ([record(("gpt", " \n"))], "empty"),
        ([record(("human", "?"), ("gpt", None))], "None"),
        ([{"conversations": "a"}], "must be a list of turns"),
    ],
)
def test_bad_records_are_named(tmp_path, bad, named):
    content = json.dumps([record(("gpt", "a cat")), *bad])
    with pytest.raises(UserError, match=r"a\.json: record 1.*" + named):
        captions_of(tmp_path / "a.json", content)


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.txt", "one\n\ntwo\n", "line 2"),
        ("a.txt", b"one\n\xfftwo\n", "byte 4, line 2"),
        ("a.jsonl", '"one"\n{"a": 1}\n', "record 1"),
        ("a.jsonl", '"one"\n{"a"\n', "broken JSON at line 2"),
        ("a.jsonl", '{"caption": ""}', "record 0"),
        ("a.jsonl", '{"text": 3}', "record 0.*3"),
        ("a.json", "", "is empty"),
        ("a.json", '["a",\n{"b', "broken JSON .*line 2"),
        ("a.json", "[" * 100_000, "nested too deep"),
        ("a.json", '{"a": 1}', "not a list.*jsonl"),
        ("a.json", b'["b",\n"a\xc3"]', "not UTF-8 .* line 2"),
    ],
)
def test_bad_lines_are_named(tmp_path, name, content, place):
    with pytest.raises(UserError, match=rf"{name}.*{place}"):
        captions_of(tmp_path / name, content)


@pytest.mark.parametrize(
    ("names", "expected"),
    [([], "at least one file"), (["none.json"], r"none\.json"), (["a.csv"], r"a\.csv.*\.jsonl")],
)
def test_corpus_files_are_checked_first(tmp_path, names, expected):
    with pytest.raises(UserError, match=expected):
        check_corpus([str(tmp_path / name) for name in names])


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"none\.txt"):
        list(read_captions(tmp_path / "none.txt"))
