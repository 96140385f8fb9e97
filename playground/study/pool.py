"""Runs in several processes of one thread each, taken from one queue.

Two small trainings beside each other use two cores better than one training with two threads. A
worker writes its result itself, whole or not at all; a killed study loses the runs that were going
on and nothing else. Workers end when the process that started them is gone.
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
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from llava_sea.errors import UserError
from playground.study.arms import ARMS
from playground.study.plan import Planned
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

_POLL_S = 1.0
_END_S = 20.0


class Done(NamedTuple):
    """A run that a worker has finished."""

    planned: Planned
    seconds: float


Execute = Callable[[Any, Any], float]
"""Does a run, given the setup and the planned run, writes its result, returns the seconds."""


class Setup(NamedTuple):
    """What a worker needs to know beside its runs."""

    world: World
    recipe: Recipe
    precision: str


def execute(setup: Setup, planned: Planned) -> float:
    """Do one run and write its result; return the seconds it took."""
    from playground.study.run import train_run

    started = time.monotonic()
    arm = ARMS[planned.run.arm]
    labels = setup.world.labels(arm)
    sea = arm.arguments(str(labels) if labels else None)
    bench = _bench(setup, planned)
    measured = train_run(bench, sea, planned.run.steps, planned.run.seed, arm.warm_start)
    seconds = time.monotonic() - started
    planned.save(measured | {"seconds": seconds})
    return seconds


_benches: dict[Any, Any] = {}


def _bench(setup: Setup, planned: Planned) -> Any:
    """Load an LLM the first time that this process needs it."""
    from playground.study.bench import Bench

    key = (planned.run.llm, setup)
    if key not in _benches:
        _benches[key] = Bench(setup.world, planned.run.llm, setup.recipe, setup.precision)
    return _benches[key]


def run_all(
    setup: Any, planned: Sequence[Planned], workers: int, execute: Execute = execute
) -> Iterator[Done]:
    """Do runs in their order, several at a time.

    Args:
        setup: what is the same for all; `Setup` unless another function does the runs.
        planned: the runs that are left.
        workers: processes.
        execute: does one run; a function of a module, so that a new process can find it.

    Yields:
        Each run as it ends.

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
        for _ in range(min(workers, len(planned)))
    ]
    for item in (*planned, *[None] * len(processes)):
        tasks.put(item)
    for process in processes:
        process.start()
    try:
        for _ in planned:
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


def _next(results: Any, processes: Sequence[Any]) -> Done:
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
        if isinstance(answer, Done):
            return answer
        raise UserError(f"a run failed; finished runs are kept.\n{answer}")


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
    while (planned := tasks.get()) is not None:
        try:
            results.put(Done(planned, execute(setup, planned)))
        except UserError as error:
            results.put(f"{planned.run.name}: {error}")
        except Exception:
            results.put(f"{planned.run.name}: {traceback.format_exc()}")


def _watch(parent: int) -> None:
    """End this process when its parent is gone: nobody would ever stop it."""
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os._exit(1)
