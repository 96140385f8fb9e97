"""The cache of records: made once, made again, the same; JSON lists read in pieces."""

import json
import os
import time

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava_sea.data import read_records, record_cache
from llava_sea.data.read_records import BrokenRow, read_rows
from llava_sea.data.records import Records, load_records, open_records
from llava_sea.errors import UserError
from tests.data.format_files import PAIR, write
from tests.worlds import turns

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
    monkeypatch.setattr(read_records, "LINE_BYTES", 2**20)
    path = tmp_path / "a.json"
    path.write_text('[1,\n"' + "x" * 2**22)
    monkeypatch.setattr(read_records, "_PIECE", 2**16)
    one, broken = read_rows(path)
    assert one == 1
    assert "over 1 MB begins at line 2, column 1" in str(broken)
