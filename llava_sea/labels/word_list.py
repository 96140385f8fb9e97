"""A corpus of captions in, `words.tsv` out: the words and phrases W that patches may say (app. C).

`python -m llava_sea.labels.word_list --data_path pretrain.json --output words.tsv` tags and chunks
every caption (`phrases`), counts in bounded memory (`counting`), unites with a list of frequent
words (`common_words`) and writes the list whole or not at all (`words_file`). The same corpus gives
the same bytes, whatever the number of workers. Limits: English captions.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from llava_sea.errors import UserError, cannot_write, failed_write, run_command
from llava_sea.files import check_folder, remove_left_overs
from llava_sea.labels.captions import check_corpus, iter_caption_batches
from llava_sea.labels.common_words import read_common_words
from llava_sea.labels.counting import (
    LIST_POS,
    Tally,
    merge_runs,
    sorted_by_count,
    total_counts,
    write_run,
)
from llava_sea.labels.counting_pool import count_batches
from llava_sea.labels.phrases import PHRASE
from llava_sea.labels.words_file import WordEntry, read_words, words_sha256, write_words
from llava_sea.progress import Progress
from llava_sea.ranges import check_ranges
from llava_sea.terminal import say

__all__ = ["WordEntry", "WordListOptions", "build_word_list", "read_words", "words_sha256"]

# A batch is counted at once, in memory: at most about 4 M characters, 1 M distinct entries.
BATCH_CAPTIONS = 1 << 14
BATCH_CHARS = 1 << 22


@dataclass(frozen=True)
class WordListOptions:
    """What goes into a word list."""

    common_words: Path | None = None
    min_count: int = 1
    max_words_per_phrase: int = 4
    num_workers: int = 2
    batch_captions: int = BATCH_CAPTIONS

    def __post_init__(self) -> None:
        check_ranges("labels.word_list", self)


@dataclass
class WordListSummary:
    """What a word list holds and where it came from."""

    captions: int = 0
    words: int = 0
    phrases: int = 0
    from_list: int = 0
    stopped: int = 0
    sha256: str = ""

    @property
    def entries(self) -> int:
        """Rows of the list."""
        return self.words + self.phrases + self.from_list


def build_word_list(
    data_paths: Sequence[Path], output: Path, options: WordListOptions | None = None
) -> WordListSummary:
    """Write the word list of a corpus.

    Args:
        data_paths: files of captions, see `llava_sea.labels.captions`.
        output: the list to write; a former one is replaced only by a finished one.
        options: what goes in.

    Raises:
        UserError: bad input (with file and line or record), nothing to write, a full disk.

    Source: arXiv 2408.11813, appendix C.
    """
    options = options or WordListOptions()
    total_bytes = check_corpus(data_paths)
    if output.is_dir():
        raise UserError(f"--output {output}: is a folder; give the name of a file")
    check_folder(output.parent, "--output")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        remove_left_overs(output.parent, r"\.words-(\d+)-\w+")
        # Beside the output and not in /tmp, which may be held in memory.
        prefix = f".words-{os.getpid()}-"
        with tempfile.TemporaryDirectory(prefix=prefix, dir=output.parent) as folder:
            return _build(data_paths, output, options, Path(folder), total_bytes)
    except OSError as error:
        failed = failed_write(error, output)
        if failed is None:
            raise
        raise UserError(cannot_write(failed, "No word list was written")) from error


def _build(
    data_paths: Sequence[Path],
    output: Path,
    options: WordListOptions,
    scratch: Path,
    total_bytes: int,
) -> WordListSummary:
    summary = WordListSummary()
    runs: list[Path] = []
    if options.common_words is not None:
        common = read_common_words(options.common_words)
        summary.stopped = common.stopped
        runs.append(scratch / "common.tsv")
        write_run(runs[0], (Tally(word, LIST_POS, 0) for word in common.words))
    batches = iter_caption_batches(data_paths, options.batch_captions, BATCH_CHARS)
    total_kb = -(-total_bytes // 1000)
    with Progress() as progress:
        progress("kB", 0, total_kb)
        for batch, run in count_batches(
            batches,
            scratch,
            max_words=options.max_words_per_phrase,
            num_workers=options.num_workers,
        ):
            runs.append(run)
            summary.captions += len(batch.captions)
            progress("kB", batch.bytes_read // 1000, total_kb, f"{summary.captions:,} captions")
    if not summary.captions:
        raise UserError(f"{', '.join(map(str, data_paths))}: no captions; the corpus is empty")
    entries = total_counts(merge_runs(runs, scratch), options.min_count)
    rows = sorted_by_count(_tallied(entries, summary), scratch)
    first = next(rows, None)
    if first is None:
        raise UserError(
            f"no word or phrase of {summary.captions} captions occurs {options.min_count} times "
            "or more; lower --min_count, or look whether the captions are English"
        )
    summary.sha256 = write_words(output, chain([first], rows))
    return summary


def _tallied(entries: Iterator[WordEntry], summary: WordListSummary) -> Iterator[WordEntry]:
    for entry in entries:
        if entry.pos == LIST_POS:
            summary.from_list += 1
        elif entry.pos == PHRASE:
            summary.phrases += 1
        else:
            summary.words += 1
        yield entry


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m llava_sea.labels.word_list",
        description="Words and phrases of a caption corpus, with counts and parts of speech.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--data_path",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="captions: LLaVA's JSON (the gpt turns), .jsonl (records, strings or objects with "
        "'caption' or 'text'), or .txt with one caption a line; several files are one corpus",
    )
    add("--output", type=Path, required=True, help="the list to write, e.g. words.tsv")
    add(
        "--common_words",
        type=Path,
        metavar="FILE",
        help="frequent words to add, one a line, '#' opens a comment (2of12); those that the "
        "corpus does not hold get count 0 and pos 'list'; words of the stop list stay out",
    )
    add("--min_count", type=int, default=1, help="leave out what occurs less often (default 1)")
    add(
        "--max_words_per_phrase",
        type=int,
        default=4,
        help="longest phrase in words; 1 for single words only (default 4)",
    )
    add("--num_workers", type=int, default=2, help="processes; the result is the same (default 2)")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    args = _parser().parse_args(argv)
    start = time.monotonic()
    summary = build_word_list(
        args.data_path,
        args.output,
        WordListOptions(
            args.common_words, args.min_count, args.max_words_per_phrase, args.num_workers
        ),
    )
    say(
        f"{args.output}: {summary.entries:,} entries ({summary.words:,} words, "
        f"{summary.phrases:,} phrases, {summary.from_list:,} from the common list alone) "
        f"of {summary.captions:,} captions in {time.monotonic() - start:.1f} s"
    )
    if args.common_words is not None:
        say(f"{args.common_words}: {summary.stopped:,} words are in the stop list, left out")
    say(f"sha256 {summary.sha256}")


if __name__ == "__main__":
    run_command(main)
