"""Time and memory of the word list at LLaVA-558K's size, on synthetic captions.

`python scripts/bench/word_list.py [--quick] [--captions 558128] [--num_workers 2]` writes captions
of a small grammar whose nouns and attributes are the tagger's lexicon, drawn with a long tail
(rank^-1), into a temporary folder in LLaVA's layout, runs the command's function on them in a
process of its own; --quick takes 6,000 captions. Limits: real captions repeat themselves more, so
that their lists are shorter; a single machine, whatever else runs on it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from common.rows import Row, bench_parser, read_flags, report

PATTERNS = (
    "a {j} {n} {g} on a {j} {n} next to the {n}",
    "the {n} of a {j} {n} with {s} and a {j} {j} {n}",
    "stock photo of {j} {s} isolated on white background",
    "two {s} {g} in front of a {n} {n} at the {n}",
    "{n} wearing a {j} {n} and {s}, {n} {n} for sale",
    "an image of the {j} {n} in a {n}'s {n}",
)
TAGS = {"n": "NN", "s": "NNS", "j": "JJ", "g": "VBG"}


def synthetic_captions(count: int, seed: int) -> Iterator[str]:
    """`count` captions; the same for the same seed."""
    from textblob.en import lexicon

    rng = random.Random(seed)
    words: dict[str, list[str]] = {slot: [] for slot in TAGS}
    for word, tag in sorted(lexicon.items()):
        for slot, wanted in TAGS.items():
            if tag == wanted and word.isascii() and word.isalpha() and word.islower():
                words[slot].append(word)
    weights = {}
    for slot, vocabulary in words.items():
        rng.shuffle(vocabulary)
        weights[slot] = list(itertools.accumulate(1 / (i + 1) for i in range(len(vocabulary))))
    for _ in range(count):
        parts = rng.choice(PATTERNS).split("{")
        caption = [parts[0]]
        for part in parts[1:]:
            slot = part[0]
            caption += rng.choices(words[slot], cum_weights=weights[slot])
            caption.append(part[2:])
        yield "".join(caption)


def write_corpus(path: Path, count: int, seed: int) -> None:
    """Captions as LLaVA's pretraining JSON, on one line as that file is."""
    with path.open("w", encoding="utf-8") as file:
        separator = "["
        for number, caption in enumerate(synthetic_captions(count, seed)):
            record = {
                "id": f"{number:09d}",
                "image": f"{number % 1000:05d}/{number:09d}.jpg",
                "conversations": [
                    {"from": "human", "value": "<image>\nRender a summary of the photo."},
                    {"from": "gpt", "value": caption},
                ],
            }
            file.write(separator + json.dumps(record))
            separator = ", "
        file.write("]")


def measure(corpus: Path, num_workers: int) -> dict[str, float]:
    """Build the list in this process; what `main` calls in a fresh one."""
    from llava_sea.labels.word_list import WordListOptions, build_word_list

    output = corpus.with_name("words.tsv")
    options = WordListOptions(data_path=(str(corpus),), output=str(output), num_workers=num_workers)
    start = time.perf_counter()
    summary = build_word_list(options)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return {
        "captions": summary.captions,
        "entries": summary.entries,
        "seconds": seconds,
        "peak": peak / (2**20 if sys.platform == "darwin" else 2**10),
    }


def main() -> None:
    """Generate, measure, report."""
    parser = bench_parser(__doc__)
    parser.add_argument("--captions", type=int, help="default: 558,128; --quick: 6,000")
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = read_flags(parser, "word_list", cuda=False)
    args.captions = args.captions or (6_000 if args.quick else 558_128)
    if args.measure:
        print(json.dumps(measure(args.measure, args.num_workers)))
        return
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "captions.json"
        print(f"writing {args.captions:,} synthetic captions", file=sys.stderr)
        write_corpus(corpus, args.captions, args.seed)
        command = [sys.executable, __file__, "--measure", str(corpus)]
        command += ["--num_workers", str(args.num_workers)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    note = (
        f"{found['captions']:,} captions, {found['entries']:,} entries, {args.num_workers} workers"
    )
    rows = [
        Row("word list, seconds", found["seconds"], note=note),
        Row("captions a second", found["captions"] / found["seconds"]),
        Row("peak memory, MiB", found["peak"], note="of the process that counts, not its workers"),
    ]
    report("word_list", args, rows)


if __name__ == "__main__":
    main()
