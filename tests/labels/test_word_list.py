import json
import multiprocessing
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from llava_sea.errors import UserError
from llava_sea.labels import word_list
from llava_sea.labels.phrases import extract_entries
from llava_sea.labels.word_list import (
    WordListOptions,
    build_word_list,
    read_words,
    words_sha256,
)

NOUNS = ["cat", "dog", "table", "house", "window", "shoes", "trees", "car", "painting"]
ATTRIBUTES = ["red", "old", "wooden", "broken", "large", "shiny", "orange"]


def captions(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
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


def test_the_list_equals_a_counter_over_all_captions(corpus, tmp_path):
    summary = build_word_list(
        [corpus], tmp_path / "w.tsv", WordListOptions(num_workers=1, batch_captions=7)
    )
    naive = Counter(word for text in captions(60) for word, _ in extract_entries(text))
    entries = read_words(tmp_path / "w.tsv")
    assert {entry.word: entry.count for entry in entries} == naive
    assert [e.word for e in entries] == sorted(naive, key=lambda word: (-naive[word], word))
    assert summary.captions == 60
    assert summary.entries == len(entries)
    assert summary.phrases == sum(" " in entry.word for entry in entries)
    assert summary.sha256 == words_sha256(tmp_path / "w.tsv")


def test_the_same_bytes_for_any_number_of_workers_and_any_batch(corpus, tmp_path):
    contents = set()
    for workers, batch in ((1, 1), (1, 1000), (2, 9)):
        output = tmp_path / f"w-{workers}-{batch}.tsv"
        build_word_list(
            [corpus], output, WordListOptions(num_workers=workers, batch_captions=batch)
        )
        contents.add(output.read_bytes())
    assert len(contents) == 1


def test_min_count_and_the_common_list(corpus, tmp_path):
    common = tmp_path / "common.txt"
    common.write_text("zebra\ncat\nthe\n")
    every = tmp_path / "every.tsv"
    build_word_list([corpus], every, WordListOptions(num_workers=1))
    some = tmp_path / "some.tsv"
    summary = build_word_list(
        [corpus], some, WordListOptions(common_words=common, min_count=5, num_workers=1)
    )
    frequent = [entry for entry in read_words(every) if entry.count >= 5]
    assert "cat" in {entry.word for entry in frequent}
    assert len(frequent) < len(read_words(every))
    assert read_words(some) == [*frequent, ("zebra", 0, "list")]
    assert (summary.from_list, summary.stopped) == (1, 1)


def test_several_files_are_one_corpus(corpus, tmp_path):
    records = [{"conversations": [{"from": "gpt", "value": "a red zebra"}]}]
    other = tmp_path / "more.json"
    other.write_text(json.dumps(records))
    summary = build_word_list([corpus, other], tmp_path / "w.tsv", WordListOptions(num_workers=1))
    assert summary.captions == 61
    assert "red zebra" in {entry.word for entry in read_words(tmp_path / "w.tsv")}


@pytest.mark.parametrize(
    ("name", "content", "options", "expected"),
    [
        ("a.json", "[]", {}, r"a\.json: no captions; the corpus is empty"),
        ("a.txt", "", {}, r"a\.txt: no captions; the corpus is empty"),
        ("a.txt", "it is here", {}, "no word or phrase of 1 captions occurs 1 times"),
        ("a.txt", "a cat", {"min_count": 2}, "occurs 2 times or more; lower --min_count"),
        ("a.txt", "a cat", {"min_count": 0}, "--min_count 0: must be a whole number from 1"),
        ("a.txt", "a cat", {"num_workers": 0}, "--num_workers 0: must be a whole number from 1"),
        ("a.json", "[1,\n{]", {}, r"a\.json, line 1, record 0: is a int"),
    ],
)
def test_bad_input_leaves_the_former_list_and_no_scraps(tmp_path, name, content, options, expected):
    (tmp_path / name).write_text(content)
    output = tmp_path / "w.tsv"
    output.write_text("former")
    with pytest.raises(UserError, match=expected):
        build_word_list([tmp_path / name], output, WordListOptions(**options))
    assert output.read_text() == "former"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "w.tsv"])


def test_an_error_late_in_the_corpus_reaches_through_the_workers(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a cat\n" * 40 + "\n" + "a cat\n")
    with pytest.raises(UserError, match=r"a\.txt, line 41: is blank"):
        build_word_list([path], tmp_path / "w.tsv", WordListOptions(batch_captions=4))
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_what_a_killed_run_left_is_removed(corpus, tmp_path):
    for pid in (2**22 + 1, 1):  # one that can't be, one that is alive
        (tmp_path / f".words-{pid}-x" / "run").mkdir(parents=True)
    build_word_list([corpus], tmp_path / "w.tsv", WordListOptions(num_workers=1))
    assert [p.name for p in tmp_path.glob(".words-*")] == [".words-1-x"]


def test_a_full_disk_is_an_error_for_people(corpus, tmp_path, monkeypatch):
    def full(path, entries):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(word_list, "write_words", full)
    with pytest.raises(UserError, match=r"w\.tsv: No space left.*No word list was written"):
        build_word_list([corpus], tmp_path / "w.tsv", WordListOptions(num_workers=1))


def test_a_killed_worker_is_an_error_for_people(corpus, tmp_path, monkeypatch):
    def kill_the_workers(*_):
        for worker in multiprocessing.active_children():
            worker.kill()

    monkeypatch.setattr(word_list.Progress, "__call__", kill_the_workers)
    with pytest.raises(UserError, match=r"worker process was killed .* --num_workers 1"):
        build_word_list([corpus], tmp_path / "w.tsv", WordListOptions(batch_captions=2))
    assert [p.name for p in tmp_path.iterdir()] == ["captions.txt"]


def run_command(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llava_sea.labels.word_list", *flags]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command(corpus, tmp_path):
    output = tmp_path / "deep" / "words.tsv"
    run = run_command("--data_path", str(corpus), "--output", str(output))
    assert run.returncode == 0, run.stderr
    assert f"sha256 {words_sha256(output)}\n" in run.stdout
    assert "of 60 captions" in run.stdout
    missing = run_command("--data_path", "none.json", "--output", str(output))
    assert missing.returncode == 2
    assert missing.stderr == "error: --data_path none.json: there is no such file\n"
