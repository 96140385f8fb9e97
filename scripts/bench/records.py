"""Records on disk, at LLaVA-665K's size: `python scripts/bench/records.py [--quick]`.

Writes a synthetic JSON list of LLaVA-665K's shape (665,000 records, 1 GB, most with one of 5,000
images, several turns) and 336-pixel JPEG files, opens it twice, reads it at random, in data workers
and through the checker. Each number is of a process of its own; the data loader reads the same
records from the cache and from a list in memory, in turns.

Memory is what a process needs for itself. Pages of the mapped cache are the kernel's page cache:
all processes share them and they go when memory is short; they are given apart.
Limits: Linux; 3.5 GB below $TMPDIR and a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from common.rows import Row, bench_parser, read_flags, report
from common.timing import best_seconds
from data_workers import LLM, photograph
from PIL import Image

from llava_sea.errors import run_command

NUM_RECORDS, NUM_IMAGES = 665_000, 5_000
QUICK_RECORDS, QUICK_IMAGES = 12_000, 50  # more than `SMALL_BYTES`, of which there is no cache
PIXELS, TEXT_ONLY = 336, 16  # one record of 16 has no image
TOWER = LLM.parent / "clip"
WORKERS = 2
WORDS = (
    "a the of on in with to and it its next left right above below between one two three red blue "
    "green yellow small large circle square triangle wooden table bowl apples window old kitchen "
    "man woman dog street people standing there is are what color where how many describe image"
)


def write_records(path: Path, count: int, num_images: int) -> None:
    """Write a JSON list of LLaVA's records: 1 to 9 questions and their answers, 1.55 kB each."""
    rng, words = np.random.default_rng(0), WORDS.split()

    def texts(shortest: int, longest: int) -> list[str]:
        sizes = rng.integers(shortest, longest, 5_000)
        return [" ".join(rng.choice(words, size)) for size in sizes]

    questions, answers = texts(5, 20), texts(5, 62)
    with path.open("w") as file:
        for number in range(count):
            turns = []
            asked, said = rng.integers(0, 5_000, (2, 1 + int(rng.integers(9)))).tolist()
            for question, answer in zip(asked, said, strict=True):
                turns.append({"from": "human", "value": questions[question]})
                turns.append({"from": "gpt", "value": answers[answer]})
            record: dict[str, Any] = {"id": f"{number:012d}"}
            if number % TEXT_ONLY:
                record["image"] = image_name(int(rng.integers(num_images)))
                turns[0]["value"] = "<image>\n" + turns[0]["value"]
            text = json.dumps(record | {"conversations": turns})
            file.write(f"{', ' if number else '['}{text}")
        file.write("]")


def image_name(number: int) -> str:
    """An image's name as LLaVA-665K has them."""
    return f"coco/train2017/{number:012d}.jpg"


def write_images(folder: Path, count: int) -> float:
    """Write JPEG files of 336 x 336 pixels; return their mean size in bytes."""
    rng = np.random.default_rng(0)
    size = (PIXELS, PIXELS)
    bases = [np.asarray(Image.open(BytesIO(photograph(rng))).resize(size)) for _ in range(8)]
    (folder / image_name(0)).parent.mkdir(parents=True)
    total = 0
    for number in range(count):
        pixels = np.roll(bases[number % 8], tuple(rng.integers(0, PIXELS, 2)), (0, 1))
        path = folder / image_name(number)
        Image.fromarray(pixels).save(path, quality=85)
        total += path.stat().st_size
    return total / count


def in_process(call: str, *arguments: object) -> Any:
    """Call a function of this file in a process of its own; return what it returns."""
    code = (
        "import json, sys, torch; import records; "
        f"print(json.dumps(records.{call}(*json.loads(sys.argv[1]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps([str(argument) for argument in arguments])],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )
    if done.returncode:
        raise RuntimeError(f"{call} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def memory(pid: int | str = "self") -> dict[str, int]:
    """Return a process's memory by kind in bytes (Linux's smaps_rollup)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {key: int(size) * 1024 for key, size in re.findall(r"^(\w+): +(\d+) kB", text, re.M)}


def open_once(path: str) -> dict[str, float]:
    """Open the records, and what the samplers need; torch is loaded, nothing else is counted."""
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back
    before = memory()["Rss"]
    started = time.perf_counter()
    from llava_sea.data.records import open_records

    records = open_records(path)
    assert len(records.words) == len(records.num_images) == len(records)
    seconds = time.perf_counter() - started
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    assert found is not None
    return {"seconds": seconds, "bytes": int(found[1]) * 1024 - before}


def read_at_random(path: str) -> list[float]:
    """Return the seconds of a record, from the disk, and once its pages are in memory."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    for cache in Path(os.environ["LLAVA_SEA_CACHE"]).rglob("*.arrow"):
        descriptor = os.open(cache, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    from llava_sea.data.records import open_records

    records = open_records(path)
    rows = np.random.default_rng(0).integers(0, len(records), 5_000).tolist()
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        for row in rows:
            records[row]
        seconds.append((time.perf_counter() - started) / len(rows))
    return seconds


def fork_workers(path: str, how: str) -> dict[str, dict[str, int]]:
    """Return the memory of a forked worker that has read no records, and of one that has read all.

    `how` "list": what the workers get is a list of the records.
    """
    from llava_sea.data.records import load_records, open_records

    records = load_records(path) if how == "list" else open_records(path)
    found = {}
    for name, count in (("none", 0), ("all", len(records))):
        ours, theirs = os.pipe()
        if (pid := os.fork()) == 0:
            for index in range(count):
                sum(len(turn.text) for turn in records[index].turns)
            os.write(theirs, json.dumps(memory()).encode())
            os._exit(0)
        os.close(theirs)
        with os.fdopen(ours) as pipe:
            found[name] = json.loads(pipe.read())
        os.waitpid(pid, 0)
    return found


def loading(path: Path, images: Path, count: int, rounds: int) -> dict[str, float]:
    """Return the best seconds for `count` samples, read from the cache and from a list."""
    from transformers.models.clip import CLIPImageProcessorPil

    from llava_sea.conversation import get_template
    from llava_sea.data.collator import Collator
    from llava_sea.data.dataset import LazySupervisedDataset, Loader
    from llava_sea.data.images import ImageTransform
    from llava_sea.data.records import open_records
    from llava_sea.model.builder import load_tokenizer

    side = {"height": PIXELS, "width": PIXELS}
    processor = CLIPImageProcessorPil(size={"shortest_edge": PIXELS}, crop_size=side)
    dataset = LazySupervisedDataset(
        open_records(path),
        str(images),
        ImageTransform(processor, "square"),
        get_template("v1"),
        load_tokenizer(str(LLM), model_max_length=4096),
        image_tokens=(PIXELS // 14) ** 2,
        model_max_length=4096,
    )
    rows = np.random.default_rng(0).permutation(len(dataset))[:count].tolist()
    held = [dataset.records[row] for row in rows]
    collate = Collator.of(dataset, len(dataset.tokenizer))

    def one_pass(data: LazySupervisedDataset, order: list[int]) -> None:
        loader = Loader(data, collate, sampler=order, batch_size=16, num_workers=WORKERS)
        assert sum(len(batch["input_ids"]) for batch in loader) == len(order)

    calls = {
        "cache": partial(one_pass, dataset, rows),
        "list": partial(one_pass, dataset.like(held, str(images)), list(range(len(held)))),
    }
    return best_seconds(calls, rounds)


def check(path: Path, images: Path) -> dict[str, float]:
    """Run the checker; return its seconds, and of its processes CPU time and peaks of memory."""
    flags = {
        "model_name_or_path": LLM,
        "vision_tower": TOWER,
        "data_path": path,
        "image_folder": images,
        "version": "v1",
        "model_max_length": 4096,
    }
    command = [sys.executable, "-m", "llava_sea.check"]
    command += [str(part) for flag, value in flags.items() for part in (f"--{flag}", value)]
    peaks = dict.fromkeys(("largest", "sum", "resident"), 0)
    before = os.times()
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            for name, size in _memory_of_tree(process.pid).items():
                peaks[name] = max(peaks[name], size)
            time.sleep(0.5)
        seconds = time.perf_counter() - started
        output.seek(0)
        said = output.read().decode()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} found problems or failed: {said[-2000:]}")
    after = os.times()
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    return {"seconds": seconds, "cpu": cpu} | peaks


def _memory_of_tree(pid: int) -> dict[str, int]:
    """Return anonymous memory of the largest process and of all, and the largest resident size."""
    found = []
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            found.append(memory(process.pid))
    except (psutil.Error, OSError):  # ended meanwhile
        pass
    return {
        "largest": max((one.get("Anonymous", 0) for one in found), default=0),
        "sum": sum(one.get("Pss_Anon", 0) for one in found),
        "resident": max((one.get("Rss", 0) for one in found), default=0),
    }


def open_rows(path: Path, about: str) -> list[Row]:
    """Measure opening."""
    first, again = in_process("open_once", path), in_process("open_once", path)
    cache = sum(file.stat().st_size for file in Path(os.environ["LLAVA_SEA_CACHE"]).rglob("*"))
    return [
        Row("open the first time, s", first["seconds"], 90, note=about),
        Row("open the first time: peak over importing torch, MB", first["bytes"] / 1e6, 1000),
        Row("  the cache / the file, x", cache / path.stat().st_size),
        Row("open again, s", again["seconds"], 2, note="lengths for the samplers included"),
        Row("  the same: peak over import torch, MB", again["bytes"] / 1e6),
    ]


def worker_rows(path: Path, *, with_list: bool) -> list[Row]:
    """Measure the memory of data workers and the reading of a record."""
    rows = []
    for how in ("cache", "list") if with_list else ("cache",):
        found = in_process("fork_workers", path, how)
        grown = {key: (found["all"][key] - found["none"][key]) for key in found["all"]}
        size, private = path.stat().st_size, grown["Private_Dirty"]
        mapped = f"pages of the mapped cache besides: {(grown['Rss'] - private) / size:.2g} x"
        if how == "cache":
            what = "memory of a worker that has read all - none, / file, x"
            rows.append(Row(what, private / size, 0.1, note=mapped))
        else:
            rows.append(Row("  the same of a list in memory, x", private / size))
    cold, warm = in_process("read_at_random", path)
    rows.append(Row("read a record at random, ms", warm * 1e3, 0.2, note="pages in memory"))
    return [*rows, Row("  for the first time, from the disk, ms", cold * 1e3)]


def measure(args: argparse.Namespace) -> list[Row]:
    """Write the data and take all measurements in turn."""
    count = args.records or (QUICK_RECORDS if args.quick else NUM_RECORDS)
    num_images = args.images or (QUICK_IMAGES if args.quick else NUM_IMAGES)
    samples, rounds = (128, 1) if args.quick else (2_048, 6)
    wanted: set[str] = set(args.only)
    with tempfile.TemporaryDirectory() as name:
        path, images = Path(name) / "records.json", Path(name) / "images"
        os.environ["LLAVA_SEA_CACHE"] = str(Path(name) / "cache")
        write_records(path, count, num_images)
        kilobytes = write_images(images, num_images) / 1e3
        size = path.stat().st_size
        about = f"{count:,} records, {size / 1e6:,.0f} MB"
        rows: list[Row] = []
        parts: dict[str, Callable[[], list[Row]]] = {
            "open": lambda: open_rows(path, about),
            "workers": lambda: worker_rows(path, with_list=not args.quick),
            "loader": lambda: loader_rows(path, images, samples, rounds, kilobytes),
            "check": lambda: check_rows(path, images, f"{about}, {num_images:,} images"),
        }
        for part, rows_of in parts.items():
            if part in wanted:
                print(f"{part} ...", flush=True)
                rows += rows_of()
    return rows


def loader_rows(path: Path, images: Path, samples: int, rounds: int, kilobytes: float) -> list[Row]:
    """Measure the data loader against a list."""
    best = loading(path, images, samples, rounds)
    note = f"{PIXELS} px JPEG of {kilobytes:.0f} kB, {WORKERS} workers, {samples:,} samples"
    rate = samples / best["cache"]
    return [
        Row(
            "data loader: throughput / of a list, x", best["list"] / best["cache"], 0.95, ">=", note
        ),
        Row("  samples per second", rate),
    ]


def check_rows(path: Path, images: Path, about: str) -> list[Row]:
    """Measure the checker."""
    found = check(path, images)
    resident = f"{found['resident'] / 1e6:,.0f} MB with the pages of the mapped cache"
    return [
        Row("check, all cores, minutes", found["seconds"] / 60, 10, note=about),
        Row("  CPU time of its processes, minutes", found["cpu"] / 60),
        Row(
            "check: memory of the largest process, MB", found["largest"] / 1e6, 1000, note=resident
        ),
        Row("check: memory of all processes, MB", found["sum"] / 1e6, 1000),
    ]


def main() -> None:
    """Read the flags, measure, report."""
    parser = bench_parser(__doc__)
    parser.add_argument("--records", type=int, help=f"default: {NUM_RECORDS} ({QUICK_RECORDS})")
    parser.add_argument("--images", type=int, help=f"default: {NUM_IMAGES} ({QUICK_IMAGES})")
    parts = ("open", "workers", "loader", "check")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="some rows")
    args = read_flags(parser, "records", cuda=False)
    run_command(lambda: report("records", args, measure(args)))


if __name__ == "__main__":
    main()
