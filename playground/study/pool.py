"""Runs in several processes of one thread each, taken from one queue.

Two small trainings beside each other use two cores better than one training with two threads. A
worker adds its result itself; a killed study loses the runs that were going on and nothing else.
Workers end when the process that started them is gone.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llava_sea.errors import UserError
from playground.study.arms import ARMS
from playground.study.plan import HERE, Made, Run, append, read_results
from playground.study.prepare import World
from playground.study.recipe import Recipe

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # glibc gives large blocks back after every step and faults them in again: 10 % of the time.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}
"""Of the workers; read when a process starts, so they are set before it does."""

MODELS = HERE.parent / "models"

_POLL_S = 1.0
_END_S = 20.0

Execute = Callable[[Any, Run], None]
"""Does a run, given what is the same for all, and adds its result."""


class Setup(NamedTuple):
    """What is the same for all runs."""

    world: World
    recipe: Recipe
    results: Path
    made: Mapping[Run, Made]


_benches: dict[str, Any] = {}


def execute(setup: Setup, run: Run) -> None:
    """Do one run and add its lines; the LLM is loaded the first time that a process needs it.

    Stage 1's projector is kept, so that stage 2 can be run, or run anew, without it.
    """
    from safetensors.torch import load_file, save_file

    from playground.study.bench import Bench
    from playground.study.stage1 import train_stage1
    from playground.study.stage2 import train_stage2

    if run.llm not in _benches:
        _benches.clear()
        _benches[run.llm] = Bench(setup.world, MODELS / run.llm, setup.recipe)
    bench, arm = _benches[run.llm], ARMS[run.arm]
    first = run._replace(stage=1)
    made = setup.made[first]
    name = f"{run.llm}-{run.arm}-{run.seed}-{made.recipe}-{made.arm}.safetensors"
    kept = setup.world.folder / "projectors" / name
    if not kept.is_file() or first not in read_results(setup.results.parent):
        labels = setup.world.labels(arm)
        sea = arm.arguments(str(labels) if labels else None)
        model, result = train_stage1(bench, sea, run.seed, arm.warm_start)
        append(setup.results, first, made, result)
        kept.parent.mkdir(exist_ok=True)
        part = kept.with_suffix(".part")
        save_file(model.projector.state_dict(), part)
        part.replace(kept)
    if run.stage == 2:
        append(setup.results, run, setup.made[run], train_stage2(bench, load_file(kept), run.seed))


def run_all(
    setup: Any, runs: Sequence[Run], workers: int, execute: Execute = execute
) -> Iterator[tuple[Run, float]]:
    """Do runs in their order, several at a time.

    Args:
        setup: what is the same for all.
        runs: what is left to do.
        workers: processes.
        execute: does one run; a function of a module, so that a new process can find it.

    Yields:
        Each run as it ends, with the seconds it took.

    Raises:
        UserError: if a run fails or a worker dies, with what it said.
    """
    os.environ.update(ENVIRONMENT)
    context = multiprocessing.get_context("spawn")
    tasks, results = context.Queue(), context.Queue()
    processes = [
        context.Process(
            target=_work, args=(execute, setup, tasks, results, os.getpid()), daemon=True
        )
        for _ in range(min(workers, len(runs)))
    ]
    for item in (*runs, *[None] * len(processes)):
        tasks.put(item)
    for process in processes:
        process.start()
    try:
        for _ in runs:
            yield _next(results, processes)
        for process in processes:
            process.join(_END_S)  # on their way out: a signal in between would be told as an error
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
        for channel in (tasks, results):
            channel.cancel_join_thread()  # what is left in it belongs to nobody


def _next(results: Any, processes: Sequence[Any]) -> tuple[Run, float]:
    """Wait for a run to end; notice a worker that will never answer."""
    while True:
        try:
            answer = results.get(timeout=_POLL_S)
        except queue.Empty:
            dead = [p.exitcode for p in processes if p.exitcode not in (None, 0)]
            if dead:
                raise UserError(
                    f"a worker ended with status {dead[0]} (-9: killed, most often for want of "
                    "memory; try --workers 1). Finished runs are kept: start the same command again"
                ) from None
            continue
        if isinstance(answer, str):
            raise UserError(f"a run failed; finished runs are kept.\n{answer}")
        run, seconds = answer
        return run, seconds


def _work(execute: Execute, setup: Any, tasks: Any, results: Any, parent: int) -> None:
    """Take runs until there are none left."""
    import torch
    from transformers.utils import logging as transformers_logging

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, who ends us
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # with its clean-up
    threading.Thread(target=functools.partial(_watch, parent), daemon=True).start()
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    while (run := tasks.get()) is not None:
        started = time.monotonic()
        try:
            execute(setup, run)
            results.put((run, time.monotonic() - started))
        except UserError as error:
            results.put(f"{run.name}: {error}")
        except Exception:
            results.put(f"{run.name}: {traceback.format_exc()}")


def _watch(parent: int) -> None:
    """End this process when its parent is gone: nobody would ever stop it."""
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os._exit(1)
