from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava_sea.labels import counting
from llava_sea.labels.counting import (
    Tally,
    count_to_run,
    merge_runs,
    read_run,
    sorted_by_count,
    total_counts,
    write_run,
)
from llava_sea.labels.words_file import WordEntry

SAME_FOLDER = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
WORDS = st.sampled_from(["a", "a b", "ab", "a-b", "caf\u00e9", "b", "\U0001f600x", "\u2028y"])
COUNTERS = st.lists(
    st.dictionaries(st.tuples(WORDS, st.sampled_from(["NN", "JJ"])), st.integers(1, 9)), max_size=7
)


def write_counters(folder, counters):
    paths = []
    for number, counter in enumerate(counters):
        paths.append(folder / f"run-{number}.tsv")
        write_run(paths[-1], sorted(Tally(w, p, n) for (w, p), n in counter.items()))
    return paths


@SAME_FOLDER
@given(counters=COUNTERS, fan_in=st.integers(2, 4))
def test_merged_runs_equal_one_counter(tmp_path, counters, fan_in):
    naive: Counter[tuple[str, str]] = Counter()
    for counter in counters:
        naive.update(counter)
    merged = list(merge_runs(write_counters(tmp_path, counters), tmp_path, fan_in))
    assert merged == sorted(Tally(w, p, n) for (w, p), n in naive.items())
    for path in tmp_path.iterdir():
        path.unlink()


def test_merging_opens_no_more_runs_than_allowed(tmp_path, monkeypatch):
    is_open, most = set(), 0

    def watched(path):
        nonlocal most
        is_open.add(path)
        most = max(most, len(is_open))
        yield from read_run(path)
        is_open.remove(path)

    monkeypatch.setattr(counting, "read_run", watched)
    paths = write_counters(tmp_path, [{(f"w{i}", "NN"): 1} for i in range(20)])
    assert len(list(merge_runs(paths, tmp_path, fan_in=3))) == 20
    assert most == 3


def test_a_run_is_what_the_captions_hold(tmp_path):
    path = tmp_path / "run.tsv"
    assert count_to_run(["a red cat", "the red dog"], 4, path) == 5
    assert path.read_text() == (
        "cat\tNN\t1\ndog\tNN\t1\nred\tJJ\t2\nred cat\tNP\t1\nred dog\tNP\t1\n"
    )


def test_totals_take_the_commonest_pos_and_the_list_fills_in():
    tallies = [
        Tally("kept", "JJ", 2),
        Tally("kept", "NN", 3),
        Tally("kept", "list", 0),
        Tally("only list", "list", 0),
        Tally("rare", "NN", 1),
        Tally("rare listed", "NN", 1),
        Tally("rare listed", "list", 0),
        Tally("tie", "NN", 2),
        Tally("tie", "VBG", 2),
    ]
    assert list(total_counts(tallies, min_count=2)) == [
        WordEntry("kept", 5, "NN"),
        WordEntry("only list", 0, "list"),
        WordEntry("rare listed", 0, "list"),
        WordEntry("tie", 4, "NN"),
    ]


@SAME_FOLDER
@given(
    rows=st.dictionaries(WORDS, st.integers(0, 3)),
    max_rows=st.integers(1, 4),
)
def test_external_sort_equals_sorted(tmp_path, rows, max_rows):
    entries = [WordEntry(word, count, "NN") for word, count in sorted(rows.items())]
    naive = sorted(entries, key=lambda entry: (-entry.count, entry.word))
    assert list(sorted_by_count(entries, tmp_path, max_rows)) == naive
    pieces = list(tmp_path.glob("sorted-*"))
    assert all(len(list(read_run(piece))) <= max_rows for piece in pieces)
    for piece in pieces:
        piece.unlink()
