"""Behind `bash scripts/gpu_check.sh`: the GPU's tests and benches, the important first, in time.

Each has a limit of its own and never more than what is left of the budget; what does not fit is
ended, or left out, by name. With --quick all of it runs in small on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

REPO = Path(__file__).parents[3]


class Task(NamedTuple):
    """A command, and the seconds it may take."""

    name: str
    limit: float


TASKS = (
    Task("pytest -m gpu", 120),
    Task("stage1", 150),  # the step itself: 7B with and without SEA, every attention, Liger
    Task("alignment_loss", 120),  # SEA's share of it
    Task("miner", 90),
    Task("stage2_packing", 120),
    Task("text_side", 60),
    Task("warm_start", 60),
    Task("checkpoint", 60),
)
LEAST = 15.0
"""Seconds below which nothing is started."""


def command(task: Task, folder: Path, quick: bool) -> list[str]:
    """Return a task's command line."""
    if task.name.startswith("pytest"):
        files = (REPO / "tests").rglob("test_*.py")  # to import all of them takes a minute
        marked = sorted(str(file) for file in files if "pytest.mark.gpu\n" in file.read_text())
        tests = [sys.executable, "-m", "pytest", "-m", "gpu", *marked]
        return [*tests, "--collect-only"] if quick else tests  # they need the GPU
    bench = [sys.executable, str(REPO / "scripts" / "bench" / f"{task.name}.py")]
    how = ["--quick"] if quick else ["--device", "cuda"]
    return [*bench, *how, "--json", str(result(task, folder, quick))]


def result(task: Task, folder: Path, quick: bool) -> Path:
    """Return the file of a bench's rows."""
    return folder / f"{task.name}-{'cpu' if quick else 'cuda'}.json"


def run(task: Task, words: list[str], limit: float) -> str:
    """Run a command for at most so long; return "ok" or what became of it."""
    process = subprocess.Popen(words, cwd=REPO, start_new_session=True)
    try:
        status = process.wait(limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with what it has started
        process.wait()
        return f"left out: not done in {limit:.0f} s"
    none_there = task.name.startswith("pytest") and status == 5
    return "ok" if status == 0 else "no test ran" if none_there else f"FAILED, status {status}"


def main() -> int:
    """Run what fits; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes on a CPU")
    parser.add_argument("--budget", type=float, default=600, help="seconds in all (default: 600)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the tasks")
    parser.add_argument("--results", type=Path, help="folder for the rows, instead of results/")
    args = parser.parse_args()
    start = time.monotonic()
    import torch

    from common.markdown import RESULTS, write

    if not args.quick and not torch.cuda.is_available():
        print("gpu_check: torch sees no GPU here, so nothing is measured (QUICK=1: in small)")
        return 2
    folder = args.results or (REPO / "runs" / "gpu_check" if args.quick else RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    known = [task for task in TASKS if not args.only or task.name.split()[0] in args.only]
    became: dict[str, str] = {}
    for task in known:
        left = args.budget - (time.monotonic() - start)
        if left < LEAST:
            became[task.name] = "left out: no time"
            continue
        print(f"--- {task.name} ({left:.0f} s are left)", flush=True)
        became[task.name] = run(task, command(task, folder, args.quick), min(task.limit, left))
    if folder == RESULTS:
        print(f"rows for people: {write()}")
    print(f"gpu_check, {time.monotonic() - start:.0f} s:")
    for task in known:
        where = ""
        path = result(task, folder, args.quick)
        if became[task.name] == "ok" and path.is_file():
            found = json.loads(path.read_text())
            where = f": {path} ({found['machine']}, {found['date']})"
        print(f"  {task.name:<16} {became[task.name]}{where}")
    return int(any(told.startswith("FAILED") for told in became.values()))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # as the benches find `common`
    sys.exit(main())
