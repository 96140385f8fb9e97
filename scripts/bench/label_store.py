"""Size and cold reads of the label store: `python scripts/bench/label_store.py [--quick]`.

Writes a store of 100,000 images of random labels (576 patches, 10 words each of a list of 4M) as
the extraction does, drops it from the page cache (posix_fadvise), opens it as a data worker does
and reads random images, each for the first time. "Cold" is checked by the process's major page
faults; where there are none (a tmpfs, another kernel) the time is not reported. The disk decides
most of it: its own time for a first read of one image's bytes is given beside it.
Limits: Linux; takes 3 GB below $TMPDIR, or 0.2 GB with --quick.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from common.rows import Row, run_bench

from llava_sea.alignment import LabelStore, finalize_store, write_shard

GRID, TOP_N, NUM_WORDS = (24, 24), 10, 4_000_000
ENTRIES = GRID[0] * GRID[1] * TOP_N
SHARD = 2_000
BYTES_BAR, MILLISECONDS_BAR = 6.0, 1.0


def name_of(number: int) -> str:
    """An image's name as LLaVA-Pretrain has them."""
    return f"{number % 1000:05d}/{number:09d}.jpg"


def write_store(folder: Path, num_images: int) -> float:
    """Write a finished store of random labels; return the seconds that the store's code took."""
    rng, spent = np.random.default_rng(0), 0.0
    shards = range(0, num_images, SHARD)
    for shard, first in enumerate(shards):
        count = min(SHARD, num_images - first)
        shape = (count, ENTRIES // TOP_N, TOP_N)
        ids = rng.integers(0, NUM_WORDS, shape, np.uint32)
        scores = rng.random(shape, np.float32)
        crc = rng.integers(0, 2**32, count, np.uint32)
        started = time.perf_counter()
        write_shard(folder, shard, [name_of(first + n) for n in range(count)], ids, scores, crc)
        spent += time.perf_counter() - started
    started = time.perf_counter()
    fields = {"grid": list(GRID), "top_n": TOP_N, "num_words": NUM_WORDS}
    finalize_store(folder, fields, len(shards))
    return spent + time.perf_counter() - started


def drop_from_cache(folder: Path) -> None:
    """Write every file back and let the page cache forget it."""
    for path in sorted(folder.iterdir()):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def reads(folder: Path, numbers: list[int]) -> tuple[np.ndarray, int]:
    """Return each read's milliseconds and the bytes that came from the disk for all."""
    store = LabelStore(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_inblock
    milliseconds = []
    for number in numbers:
        name = name_of(number)
        started = time.perf_counter()
        labels = store.read(name)
        assert int(labels.ids_PN.sum()) >= 0 and float(labels.scores_PN.max()) <= 1
        milliseconds.append((time.perf_counter() - started) * 1e3)
    blocks = resource.getrusage(resource.RUSAGE_SELF).ru_inblock - before
    return np.array(milliseconds), 512 * blocks


def disk_milliseconds(folder: Path, count: int) -> np.ndarray:
    """Return the disk's own time for first reads of one image's bytes, at random places."""
    rng, found = np.random.default_rng(2), []
    paths = [path for path in folder.glob("shard-*.npy") if path.stat().st_size > 9 * ENTRIES]
    for number in range(count):
        path = paths[number % len(paths)]
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        place = int(rng.integers(0, path.stat().st_size - 6 * ENTRIES))
        started = time.perf_counter()
        os.pread(descriptor, 5 * ENTRIES, place)
        found.append((time.perf_counter() - started) * 1e3)
        os.close(descriptor)
    return np.array(found)


def measure(args: argparse.Namespace) -> list[Row]:
    """Write, drop, read."""
    num_images, count = (6_000, 100) if args.quick else (100_000, 500)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = write_store(folder, num_images)
        size = sum(path.stat().st_size for path in folder.iterdir())
        numbers = np.random.default_rng(1).permutation(num_images)[:count].tolist()
        drop_from_cache(folder)
        disk = disk_milliseconds(folder, count)
        drop_from_cache(folder)
        cold, from_disk = reads(folder, numbers)
        warm, _ = reads(folder, numbers)
    per_entry = size / num_images / ENTRIES
    is_cold = from_disk >= 5 * ENTRIES * count
    note = f"{num_images:,} images of random labels, {size / 1e9:.2f} GB, every file counted"
    rows = [Row("bytes an entry", per_entry, BYTES_BAR, note=note)]
    for what, value in (("median", np.median(cold)), ("mean", cold.mean())):
        rows.append(
            Row(
                f"an image's labels, cold, ms ({what})",
                float(value) if is_cold else None,
                MILLISECONDS_BAR,
                note=f"{count} first reads, {from_disk / count / 1e3:.0f} kB each from the disk",
            )
        )
    percentile = float(np.percentile(cold, 99))
    rows += [
        Row("  99th percentile, ms", percentile if is_cold else None),
        Row(
            "  the disk alone, ms (median)",
            float(np.median(disk)),
            note=f"pread of {5 * ENTRIES:,} bytes at random places; mean {disk.mean():.3f}",
        ),
        Row("  warm, ms (median)", float(np.median(warm))),
        Row("written and verified, GB/s", size / seconds / 1e9),
    ]
    return rows


if __name__ == "__main__":
    run_bench("label_store", __doc__, measure, cuda=False)
