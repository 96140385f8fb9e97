import json
import multiprocessing
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_sea.errors import UserError
from llava_sea.files import sha256_file
from llava_sea.labels import word_list
from llava_sea.labels.phrases import extract_entries
from llava_sea.labels.word_list import (
    WordEntry,
    WordListOptions,
    build_word_list,
    list_entries,
    read_common_words,
)
from llava_sea.labels.words_file import HEADER, read_words

NOUNS = ["cat", "dog", "table", "house", "window", "shoes", "trees", "car", "painting"]
ATTRIBUTES = ["red", "old", "wooden", "broken", "large", "shiny", "orange"]


def captions(count: int) -> list[str]:
    rng = random.Random(0)
    return [
        f"a {rng.choice(ATTRIBUTES)} {rng.choice(ATTRIBUTES)} {rng.choice(NOUNS)} "
        f"sitting near the {rng.choice(NOUNS)}"
        for _ in range(count)
    ]


@pytest.fixture
def corpus(tmp_path) -> Path:
    path = tmp_path / "captions.txt"
    path.write_text("\n".join(captions(60)))
    return path


def build(output: Path, *files: Path, **options):
    names = tuple(map(str, files))
    return build_word_list(
        WordListOptions(data_path=names, output=str(output), **{"num_workers": 1} | options)
    )


def fork_workers(monkeypatch):
    forks = multiprocessing.get_context("fork")  # soon there
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: forks)


def test_the_list_equals_a_counter_over_all_captions(corpus, tmp_path):
    summary = build(tmp_path / "w.tsv", corpus)
    naive = Counter(word for text in captions(60) for word, _ in extract_entries(text))
    entries = read_words(tmp_path / "w.tsv")
    assert {entry.word: entry.count for entry in entries} == naive
    assert [e.word for e in entries] == sorted(naive, key=lambda word: (-naive[word], word))
    assert summary.captions == 60 and summary.entries == len(entries)
    assert summary.phrases == sum(" " in entry.word for entry in entries)
    assert summary.sha256 == sha256_file(tmp_path / "w.tsv")


def test_the_same_bytes_for_any_number_of_workers_and_any_batch(corpus, tmp_path, monkeypatch):
    fork_workers(monkeypatch)
    contents = set()
    for workers, batch in ((1, 1), (1, 1000), (2, 9)):
        monkeypatch.setattr(word_list, "BATCH", batch)
        output = tmp_path / f"w-{workers}-{batch}.tsv"
        build(output, corpus, num_workers=workers)
        contents.add(output.read_bytes())
    assert len(contents) == 1


def test_min_count_and_the_common_list(corpus, tmp_path):
    common = tmp_path / "common.txt"
    common.write_text("zebra\ncat\nthe\n")
    build(tmp_path / "every.tsv", corpus)
    summary = build(tmp_path / "some.tsv", corpus, common_words=str(common), min_count=5)
    every, some = read_words(tmp_path / "every.tsv"), read_words(tmp_path / "some.tsv")
    frequent = [entry for entry in every if entry.count >= 5]
    assert "cat" in {entry.word for entry in frequent} and len(frequent) < len(every)
    assert some == [*frequent, ("zebra", 0, "list")]
    assert (summary.from_list, summary.stopped) == (1, 1)


def test_several_files_are_one_corpus(corpus, tmp_path):
    other = tmp_path / "more.json"
    other.write_text(json.dumps([{"conversations": [{"from": "gpt", "value": "a red zebra"}]}]))
    assert build(tmp_path / "w.tsv", corpus, other).captions == 61
    assert "red zebra" in {entry.word for entry in read_words(tmp_path / "w.tsv")}


def test_entries_take_the_commonest_pos_and_the_list_fills_in():
    counts = Counter({("kept", "JJ"): 2, ("kept", "NN"): 3, ("rare", "NN"): 1})
    counts |= Counter({("rare listed", "NN"): 1, ("tie", "VBG"): 2, ("tie", "NN"): 2})
    assert list_entries(counts, ["kept", "only list", "rare listed"], min_count=2) == [
        WordEntry("kept", 5, "NN"),
        WordEntry("tie", 4, "NN"),
        WordEntry("only list", 0, "list"),
        WordEntry("rare listed", 0, "list"),
    ]


WORDS = st.sampled_from(["a", "a b", "ab", "a-b", "caf\u00e9", "b", "\U0001f600x", "\u2028y"])


@given(
    counts=st.dictionaries(st.tuples(WORDS, st.sampled_from(["NN", "JJ"])), st.integers(1, 9)),
    common=st.lists(WORDS),
    min_count=st.integers(1, 9),
)
def test_entries_are_sums_in_order(counts, common, min_count):
    rows = list_entries(Counter(counts), common, min_count)
    totals = {word: counts.get((word, "NN"), 0) + counts.get((word, "JJ"), 0) for word, _ in counts}
    kept = {word: n for word, n in totals.items() if n >= min_count}
    listed = dict.fromkeys(set(common) - kept.keys(), 0)
    assert {row.word: row.count for row in rows} == kept | listed
    assert rows == sorted(rows, key=lambda row: (-row.count, row.word))


@pytest.mark.parametrize(
    ("name", "content", "options", "named"),
    [
        ("a.json", "[]", {}, r"a\.json: no captions"),
        ("a.txt", "", {}, r"a\.txt: no captions"),
        ("a.txt", "it is here", {}, "no word or phrase of 1 captions"),
        ("a.txt", "a cat", {"min_count": 2}, "--min_count"),
        ("a.txt", "a cat", {"min_count": 0}, "--min_count 0"),
        ("a.txt", "a cat", {"num_workers": 0}, "--num_workers 0"),
        ("a.txt", "a cat\n" * 40 + "\n" + "a cat\n", {}, r"a\.txt, line 41"),
        ("a.txt", "a cat", {"output": "."}, "--output .*folder"),
        ("a.txt", "a cat", {"output": "a.txt/w.tsv"}, "--output .*a file"),
        ("a.txt", "a cat", {"output": "a.txt"}, r"--output a\.txt: holds something else"),
    ],
)
def test_bad_input_leaves_the_former_list_and_no_scraps(
    tmp_path, monkeypatch, name, content, options, named
):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(content)
    former = f"{HEADER}\nformer\t1\tNN\n"
    Path("w.tsv").write_text(former)
    with pytest.raises(UserError, match=named):
        build(Path(options.pop("output", "w.tsv")), Path(name), **options)
    assert Path("w.tsv").read_text() == former and Path(name).read_text() == content
    assert sorted(p.name for p in tmp_path.iterdir()) == [name, "w.tsv"]


def test_a_full_disk_is_an_error_for_people(corpus, tmp_path, monkeypatch):
    def full(path, entries):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(word_list, "write_words", full)
    with pytest.raises(UserError, match=r"w\.tsv: No space left.*No word list was written"):
        build(tmp_path / "w.tsv", corpus)


def test_a_killed_worker_is_an_error_for_people(corpus, tmp_path, monkeypatch):
    def kill_the_workers(*_):
        for worker in multiprocessing.active_children():
            worker.kill()

    monkeypatch.setattr(word_list, "BATCH", 2)
    fork_workers(monkeypatch)
    monkeypatch.setattr(word_list.Progress, "update", kill_the_workers)
    with pytest.raises(UserError, match=r"worker process was killed .* --num_workers 1"):
        build(tmp_path / "w.tsv", corpus, num_workers=2)
    assert [p.name for p in tmp_path.iterdir()] == ["captions.txt"]


def test_the_command(corpus, tmp_path, capsys):
    output = tmp_path / "deep" / "words.tsv"
    word_list.main(["--data_path", str(corpus), "--output", str(output), "--num_workers", "1"])
    printed = capsys.readouterr()
    assert f"sha256 {sha256_file(output)}\n" in printed.out and "of 60 captions" in printed.out
    assert printed.err.splitlines()[-1].startswith("captions: 60")
    with pytest.raises(UserError, match=r"none\.json"):
        word_list.main(["--data_path", "none.json", "--output", str(output)])


def test_common_words_with_marks_comments_case_and_the_stop_list(tmp_path):
    path = tmp_path / "2of12.txt"
    path.write_text("# common words\nzebra\nAbacuses%\n\nice cream\na\nx\nphoto\nclip art\ndog's\n")
    assert read_common_words(path) == (["abacuses", "dog", "ice cream", "zebra"], 4)


@pytest.mark.parametrize("line", ["1234", "4x4", "cat,dog", "%%", "cat\t12"])
def test_common_words_that_are_none(tmp_path, line):
    path = tmp_path / "list.txt"
    path.write_text(f"cat\n{line}\n")
    with pytest.raises(UserError, match=r"list\.txt, line 2"):
        read_common_words(path)


@pytest.mark.parametrize("content", ["", "# nothing\n\n", "the\nphoto\n"])
def test_an_empty_common_list(tmp_path, content):
    path = tmp_path / "list.txt"
    path.write_text(content)
    with pytest.raises(UserError, match=r"--common_words .*holds no words"):
        read_common_words(path)
