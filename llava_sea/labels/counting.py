"""Count entries in bounded memory: sorted runs on disk, merged.

Each batch of captions is counted by itself and spilled as a run, a file of `entry TAB pos TAB
count` lines sorted by (entry, pos). Runs are merged `FAN_IN` at a time, so that neither memory nor
open files grow with the corpus. Sums do not depend on the order of runs, hence neither on which
worker counted what.
Limits: entries and parts of speech hold no control characters (TAB sorts before all else).
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from llava_sea.labels.phrases import extract_entries
from llava_sea.labels.words_file import WordEntry

FAN_IN = 64
SORT_LINES = 1 << 18
LIST_POS = "list"
"""The part of speech of entries that come from the list of common words alone."""


class Tally(NamedTuple):
    """How often an entry occurs as one part of speech."""

    word: str
    pos: str
    times: int


def count_captions(captions: Iterable[str], max_words: int) -> Counter[tuple[str, str]]:
    """Counts of (entry, part of speech) over some captions."""
    counter: Counter[tuple[str, str]] = Counter()
    for caption in captions:
        counter.update(extract_entries(caption, max_words))
    return counter


def count_to_run(captions: list[str], max_words: int, path: Path) -> int:
    """Count a batch into a run; the number of lines written. What a worker process does."""
    tallies = [Tally(w, p, n) for (w, p), n in count_captions(captions, max_words).items()]
    write_run(path, sorted(tallies))
    return len(tallies)


def write_run(path: Path, tallies: Iterable[Tally]) -> None:
    """Write sorted tallies as a run."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{word}\t{pos}\t{count}\n" for word, pos, count in tallies)


def read_run(path: Path) -> Iterator[Tally]:
    """The tallies of a run, in its order."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            word, pos, count = line.split("\t")
            yield Tally(word, pos, int(count))


def sum_tallies(tallies: Iterable[Tally]) -> Iterator[Tally]:
    """Sorted tallies with equal (word, pos) added up."""
    for (word, pos), group in itertools.groupby(tallies, key=lambda t: (t.word, t.pos)):
        yield Tally(word, pos, sum(t.times for t in group))


def merge_runs(paths: list[Path], scratch: Path, fan_in: int = FAN_IN) -> Iterator[Tally]:
    """All runs as one sorted stream of sums; deletes runs that it has merged into larger ones.

    Args:
        paths: the runs; any number.
        scratch: a folder for the larger runs.
        fan_in: how many files are open at once.
    """
    queue, merged = list(paths), 0
    while len(queue) > fan_in:
        some, queue = queue[:fan_in], queue[fan_in:]
        path = scratch / f"merged-{merged:06d}.tsv"
        write_run(path, sum_tallies(heapq.merge(*map(read_run, some))))
        for old in some:
            old.unlink()
        queue.append(path)
        merged += 1
    yield from sum_tallies(heapq.merge(*map(read_run, queue)))


def total_counts(tallies: Iterable[Tally], min_count: int) -> Iterator[WordEntry]:
    """A row an entry: the sum of its tallies, its most frequent part of speech.

    An entry below `min_count` is left out, unless the list of common words holds it: then it is
    there with count 0 and pos `list`. Ties between parts of speech go to the first by name.
    """
    for word, group in itertools.groupby(tallies, key=lambda t: t.word):
        rows = list(group)
        found = [row for row in rows if row.pos != LIST_POS]
        count = sum(row.times for row in found)
        if found and count >= min_count:
            yield WordEntry(word, count, min(found, key=lambda row: (-row.times, row.pos)).pos)
        elif len(found) < len(rows):
            yield WordEntry(word, 0, LIST_POS)


def sorted_by_count(
    rows: Iterable[WordEntry], scratch: Path, max_rows: int = SORT_LINES
) -> Iterator[WordEntry]:
    """Rows by (-count, word), sorted in pieces of `max_rows` on disk."""
    pieces: list[Path] = []
    iterator = iter(rows)
    while piece := list(itertools.islice(iterator, max_rows)):
        piece.sort(key=WordEntry.sort_key)
        if not pieces and len(piece) < max_rows:
            yield from piece
            return
        pieces.append(scratch / f"sorted-{len(pieces):06d}.tsv")
        write_run(pieces[-1], (Tally(row.word, row.pos, row.count) for row in piece))
    yield from heapq.merge(*map(_read_counts, pieces), key=WordEntry.sort_key)


def _read_counts(path: Path) -> Iterator[WordEntry]:
    for word, pos, count in read_run(path):
        yield WordEntry(word, count, pos)
