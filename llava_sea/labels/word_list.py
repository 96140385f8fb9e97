"""A corpus of captions in, `words.tsv` out: the words and phrases W that patches may say (app. C).

`python -m llava_sea.labels.word_list --data_path pretrain.json --output words.tsv` tags and chunks
every caption (`phrases`), counts, unites with a list of frequent words and writes the list whole or
not at all (`words_file`). The same corpus gives the same bytes, whatever the number of workers. The
captions are, by the file's suffix:

- `.json`, `.jsonl`, `.parquet`: the answers of records in the forms of `llava_sea.data.row_shapes`,
  objects with `caption` or `text`, or strings.
- `.txt`: one caption a line.
Limits: English captions, UTF-8; the counts are held in memory (about 1 GB for LLaVA's 558K). A
record or line without a caption is an error that names it, never skipped.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from llava_sea.data.read_records import BrokenRow, read_rows, text_lines
from llava_sea.data.row_shapes import BadShape, make_record
from llava_sea.errors import UserError, cannot_write, naming, run_command
from llava_sea.files import check_folder, refuse_other_file
from llava_sea.labels.options import flag, parse_flags
from llava_sea.labels.phrases import (
    BOUNDARY,
    PHRASE,
    POSSESSIVE,
    extract_entries,
    fold,
    split_tokens,
)
from llava_sea.labels.stop_words import CHATTER_PHRASES, STOP_WORDS
from llava_sea.labels.words_file import HEADER, WordEntry, write_words
from llava_sea.progress import Progress
from llava_sea.ranges import check_ranges
from llava_sea.terminal import say

BATCH = 4096  # captions counted at a time
SUFFIXES = (".json", ".jsonl", ".parquet", ".txt")
LIST_POS = "list"  # of entries that come from the list of common words alone
ANNOTATIONS = "%:&#=<^~+*!$@"  # marks behind a word of some 12dicts lists

Counts = Counter[tuple[str, str]]
"""How often each (entry, part of speech) occurs."""


def _num_cores() -> int:
    of_process = getattr(os, "sched_getaffinity", None)
    return len(of_process(0)) if of_process else os.cpu_count() or 1


@dataclass(kw_only=True)
class WordListOptions:
    """The captions of a word list, its limits, and its file."""

    data_path: tuple[str, ...] = flag(
        "captions: LLaVA's JSON (the gpt turns), .jsonl (records, strings or objects with 'caption'"
        " or 'text'), or .txt with one caption a line; several files are one corpus",
        (),
        type=str,
    )
    output: str = flag("the list to write, e.g. words.tsv", "")
    common_words: str | None = flag(
        "frequent words to add, one a line, '#' opens a comment (2of12); those that the corpus "
        "does not hold get count 0 and pos 'list'; words of the stop list stay out"
    )
    min_count: int = flag("leave out words and phrases that occur less often", 1)
    max_words_per_phrase: int = flag("longest phrase in words; 1 for single words only", 4)
    num_workers: int = flag(
        "processes, one a core unless given; the result is the same", _num_cores(), type=int
    )

    def __post_init__(self) -> None:
        check_ranges("labels.word_list", self)


class WordListSummary(NamedTuple):
    """Counts of a word list's rows and of its sources."""

    captions: int
    entries: int  # words, phrases and those from the list of common words alone
    words: int
    phrases: int
    from_list: int
    stopped: int
    sha256: str


def build_word_list(options: WordListOptions) -> WordListSummary:
    """Write the word list of a corpus.

    Source: arXiv 2408.11813, appendix C.
    """
    paths = check_corpus(options.data_path)
    output = Path(options.output)
    if output.is_dir():
        raise UserError(f"--output {output}: is a folder; give the name of a file")
    check_folder(output.parent, "--output")
    refuse_other_file(output, "--output", f"{HEADER}\n".encode())
    try:
        with naming(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=output.parent).close()  # look first: counting takes long
            return _build(paths, output, options)
    except OSError as error:
        raise UserError(cannot_write(error, "No word list was written")) from error


def _build(paths: Sequence[Path], output: Path, options: WordListOptions) -> WordListSummary:
    common, stopped = read_common_words(options.common_words) if options.common_words else ([], 0)
    counts: Counts = Counter()
    num_captions = 0
    with Progress("captions") as progress:
        for size, found in count_batches(paths, options):
            counts.update(found)
            num_captions += size
            progress.update(size)
    if not num_captions:
        raise UserError(f"{', '.join(options.data_path)}: no captions; the corpus is empty")
    rows = list_entries(counts, common, options.min_count)
    if not rows:
        raise UserError(
            f"no word or phrase of {num_captions} captions occurs {options.min_count} times or "
            "more; lower --min_count, or look whether the captions are English"
        )
    kinds = Counter(row.pos if row.pos in (PHRASE, LIST_POS) else "word" for row in rows)
    sha256 = write_words(output, rows)
    counted = (kinds["word"], kinds[PHRASE], kinds[LIST_POS])
    return WordListSummary(num_captions, len(rows), *counted, stopped, sha256)


def check_corpus(names: Sequence[str]) -> list[Path]:
    """Return the files; a UserError if there is none, one is missing, or its suffix is unknown."""
    paths = [Path(name) for name in names]
    if not paths:
        raise UserError("--data_path: give at least one file of captions")
    for path in paths:
        if path.suffix not in SUFFIXES:
            raise UserError(f"--data_path {path}: the name must end in {', '.join(SUFFIXES)}")
        if not path.is_file():
            raise UserError(f"--data_path {path}: there is no such file")
    return paths


def read_captions(path: Path) -> Iterator[str]:
    """Yield the captions of one file; a `UserError` names the record or the line that has none."""
    if path.suffix == ".txt":
        for number, text in text_lines(path):
            if not text.strip():
                raise UserError(f"{path}, line {number}: is blank; every line holds one caption")
            yield text
        return
    for index, row in enumerate(read_rows(path)):
        where = f"{path}: record {index}"
        if isinstance(row, dict) and "id" in row:
            where += f" (id {row['id']!r})"
        try:
            captions = _captions_of(row)
        except (BrokenRow, BadShape) as error:
            raise UserError(f"{where}: {error}") from None
        for caption in captions or [None]:
            if not isinstance(caption, str) or not caption.strip():
                raise UserError(
                    f"{where}: holds no caption, or an empty one ({caption!r}); expected a record "
                    "with an answer, an object with 'caption' or 'text', or a string"
                )
            yield caption


def _captions_of(row: Any) -> list[Any]:
    if isinstance(row, BrokenRow):
        raise row
    if not isinstance(row, dict):
        return [row]
    if all(row.get(form) is None for form in ("conversations", "messages", "texts")):
        return [row[key] for key in ("caption", "text") if key in row][:1]
    record, _ = make_record(row, 0, "")
    return [turn.text for turn in record.turns if turn.role == "gpt"]


def count_batches(paths: Sequence[Path], options: WordListOptions) -> Iterator[tuple[int, Counts]]:
    """Yield the size and the counts of each batch of captions, in corpus order.

    Tagging is Python all the way, so several processes do it, unless there is a single batch.
    """
    captions = chain.from_iterable(map(read_captions, paths))
    batches = iter(lambda: list(islice(captions, BATCH)), [])
    head = list(islice(batches, 2))
    most = options.max_words_per_phrase
    if options.num_workers == 1 or len(head) < 2:
        for batch in chain(head, batches):
            yield len(batch), count_captions(batch, most)
        return
    waiting: deque[tuple[int, Future[Counts]]] = deque()
    pool = ProcessPoolExecutor(
        options.num_workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),  # Ctrl-C is this process's to handle
    )
    try:
        for batch in chain(head, batches):
            waiting.append((len(batch), pool.submit(count_captions, batch, most)))
            if len(waiting) > 2 * options.num_workers:
                size, future = waiting.popleft()
                yield size, future.result()
        for size, future in waiting:
            yield size, future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed from outside, most likely for memory; run again with "
            "--num_workers 1"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def count_captions(captions: Iterable[str], max_words: int) -> Counts:
    """Count the entries of some captions; the work of a worker process."""
    return Counter(chain.from_iterable(extract_entries(text, max_words) for text in captions))


def list_entries(counts: Counts, common: Iterable[str], min_count: int) -> list[WordEntry]:
    """Return the list's rows in order: each entry's sum, its most frequent part of speech.

    Common words below `min_count` are there with count 0 and pos `list`. Ties between parts of
    speech go to the first by name.
    """
    best: dict[str, tuple[int, str]] = {}
    total: Counter[str] = Counter()
    for (word, pos), times in counts.items():
        total[word] += times
        best[word] = min(best.get(word, (0, "")), (-times, pos))
    rows = [WordEntry(w, n, best[w][1]) for w, n in total.items() if n >= min_count]
    rows += [WordEntry(word, 0, LIST_POS) for word in set(common) if total[word] < min_count]
    return sorted(rows, key=WordEntry.sort_key)


def read_common_words(path: str | Path) -> tuple[list[str], int]:
    """Read a list of frequent words (appendix C: 2of12 of the 12dicts lists).

    One word or phrase a line, `#` opens a comment line. Words are normalised as captions are; those
    of the stop list are left out, and their number is returned beside the others.
    """
    words: set[str] = set()
    stopped = 0
    for number, line in text_lines(Path(path)):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        bare = POSSESSIVE.sub("", fold(text.rstrip(ANNOTATIONS)))
        tokens = [bare] if len(bare) == 1 and bare.isalpha() else split_tokens(bare)
        word = " ".join(tokens)
        if not word or BOUNDARY in tokens:
            raise UserError(
                f"{path}, line {number}: {text!r} is not a word or phrase of letters, hyphens "
                "and apostrophes; remove it or make it a comment with '#'"
            )
        if word in STOP_WORDS or len(word) == 1 or CHATTER_PHRASES.fullmatch(word):
            stopped += 1
        else:
            words.add(word)
    if not words:
        raise UserError(f"--common_words {path}: the list holds no words")
    return sorted(words), stopped


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = parse_flags(
        WordListOptions,
        "python -m llava_sea.labels.word_list",
        "Words and phrases of a caption corpus, with counts and parts of speech.",
        arguments,
    )
    start = time.monotonic()
    summary = build_word_list(options)
    say(
        f"{options.output}: {summary.entries:,} entries ({summary.words:,} words, "
        f"{summary.phrases:,} phrases, {summary.from_list:,} from the common list alone) "
        f"of {summary.captions:,} captions in {time.monotonic() - start:.1f} s"
    )
    if options.common_words is not None:
        say(f"{options.common_words}: {summary.stopped:,} words are in the stop list, left out")
    say(f"sha256 {summary.sha256}")


if __name__ == "__main__":
    run_command(main)
