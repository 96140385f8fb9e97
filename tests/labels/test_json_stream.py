import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava_sea.errors import UserError
from llava_sea.labels import json_stream
from llava_sea.labels.json_stream import TextBlocks, _ArrayReader, iter_json_array, iter_lines

SAME_FOLDER = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def blocks_of(path: Path, content: bytes, block_bytes: int = 7) -> TextBlocks:
    path.write_bytes(content)
    return TextBlocks(path, block_bytes)


def error_of(path: Path, content: bytes, block_bytes: int = 7) -> str:
    with pytest.raises(UserError) as caught:
        list(iter_json_array(blocks_of(path, content, block_bytes)))
    return str(caught.value).removeprefix(str(path))


@SAME_FOLDER
@given(
    values=st.lists(JSON_VALUES, max_size=6),
    block_bytes=st.integers(1, 40),
    indent=st.sampled_from((None, 0, 2)),
    ascii_only=st.booleans(),
)
def test_array_equals_json_loads(tmp_path, values, block_bytes, indent, ascii_only):
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    content = text.encode("utf-8", "surrogatepass" if ascii_only else "replace")
    elements = list(iter_json_array(blocks_of(tmp_path / "a.json", content, block_bytes)))
    assert [element.value for element in elements] == json.loads(content)
    assert [element.record for element in elements] == list(range(len(values)))


def test_lines_of_elements_are_the_files(tmp_path):
    content = b'\xef\xbb\xbf\n[\n{"a":\n 1},\n\n{"b": 2}, 3,\n"x"\n]\n'
    elements = iter_json_array(blocks_of(tmp_path / "a.json", content, 3))
    assert [(element.line, element.value) for element in elements] == [
        (3, {"a": 1}),
        (6, {"b": 2}),
        (6, 3),
        (7, "x"),
    ]


@pytest.mark.parametrize("block_bytes", [1, 5, 1 << 20])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", ": is empty"),
        (b" \n ", ": is empty"),
        (b'\n{"a": 1}', ", line 2: broken JSON: the file starts with '{'"),
        (b"[1,\n2", ", line 2 (record 1): broken JSON: the file ends inside the list"),
        (b"[1,\n2,", ", line 2 (record 2): broken JSON: expecting value"),
        (b"[1,\n2,]", ", line 2 (record 2): broken JSON: expecting value"),
        (b'[{"a": 1}\n{"a": 2}]', ", line 2 (record 0): broken JSON: ',' or ']' is missing"),
        (b'[1,\n{"a": 1,\n"b" 2}]', ", line 3 (record 1): broken JSON: expecting ':'"),
        (b'[1,\n{"a": "b]', ", line 2 (record 1): broken JSON: unterminated string"),
        (b'[{"a": tru}]' + b" " * 40, ", line 1 (record 0): broken JSON: expecting value"),
        (b"[1]\n\n[2]", ", line 3: broken JSON: there is more text after the list"),
        (b'[1,\n"a\xff"]', ", line 2: byte 0xff is not UTF-8"),
        (b'[1,\n"a\xc3', ", line 2: byte 0xc3 is not UTF-8"),
        (b"[" * 100_000, ", line 1 (record 0): broken JSON: the record is nested too deeply"),
    ],
)
def test_broken_json_names_the_line_and_the_record(tmp_path, content, expected, block_bytes):
    assert error_of(tmp_path / "a.json", content, block_bytes).startswith(expected)


def test_the_window_is_bounded_by_element_and_block(tmp_path):
    content = json.dumps([{"caption": "x" * 50}] * 2000).encode()
    reader = _ArrayReader(blocks_of(tmp_path / "a.json", content, 256))
    longest = max(len(reader.text) for _ in reader.elements())
    assert longest < 4 * 256 < len(content) // 50


def test_an_endless_string_does_not_fill_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "MAX_ELEMENT_CHARS", 1000)
    blocks = blocks_of(tmp_path / "a.json", b'["' + b"x" * 50_000, 100)
    with pytest.raises(UserError, match=r"line 1 \(record 0\).*longer than 1000 characters"):
        list(iter_json_array(blocks))
    assert blocks.bytes_read < 5000


@SAME_FOLDER
@given(
    lines=st.lists(st.text(st.characters(exclude_characters="\n\r", codec="utf-8"), max_size=9)),
    block_bytes=st.integers(1, 20),
    end=st.sampled_from(("", "\n", "\r\n")),
)
def test_lines_equal_split(tmp_path, lines, block_bytes, end):
    lines = lines or ["a"]
    content = ("\ufeff" + "\n".join([*lines[:-1], lines[-1] + "."]) + end).encode()
    read = list(iter_lines(blocks_of(tmp_path / "a.txt", content, block_bytes)))
    assert read == list(enumerate([*lines[:-1], lines[-1] + "."], start=1))


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"none\.json: cannot be read .No such file"):
        TextBlocks(tmp_path / "none.json")
