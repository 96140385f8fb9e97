"""How much memory a data file takes once it is loaded: `python scripts/bench/records.py`.

Writes synthetic conversations of LLaVA-665K's shape to a temporary file, loads them as training
does, and prints the file's size, the growth of this process, and their ratio. With --quick 5,000
records, at which the ratio is not yet that of a large file.
"""

from __future__ import annotations

import gc
import json
import tempfile
from pathlib import Path

import psutil
from common.rows import Row, bench_parser, read_flags, report

from llava_sea.data.records import load_records


def main() -> None:
    """Print one line and the rows."""
    parser = bench_parser(__doc__)
    parser.add_argument(
        "--records", type=int, help="synthetic records (default: 60,000; --quick: 5,000)"
    )
    args = read_flags(parser, "records", cuda=False)
    count = args.records or (5_000 if args.quick else 60_000)
    rows = []
    for number in range(count):
        turns = []
        for turn in range(6):
            text = f"turn {turn} of record {number}: " + "some words of an answer " * 3
            turns.append({"from": ("human", "gpt")[turn % 2], "value": text})
        rows.append({"id": str(number), "image": f"{number:09d}.jpg", "conversations": turns})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.json"
        path.write_text(json.dumps(rows))
        del rows, turns
        gc.collect()
        process = psutil.Process()
        before = process.memory_info().rss
        records = load_records(path)
        peak, size = process.memory_info().rss - before, path.stat().st_size
    print(
        f"{len(records):,} records of {size / len(records):.0f} bytes: file {size / 1e6:.0f} MB, "
        f"memory {peak / 1e6:.0f} MB, {peak / size:.1f} times"
    )
    note = f"{len(records):,} records of {size / len(records):.0f} bytes"
    report(
        "records", args, [Row("memory of loaded records / their file, x", peak / size, note=note)]
    )


if __name__ == "__main__":
    main()
