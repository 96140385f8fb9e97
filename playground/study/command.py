"""What the commands of both studies do alike: folders, the runs that are left, start and end.

Nothing heavy is imported before it is needed, so that ``--help`` answers at once.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tqdm import tqdm

from llava_sea.errors import UserError

if TYPE_CHECKING:
    from playground.study.plan import Planned, Run
    from playground.study.pool import Execute

Options = TypeVar("Options")


def run_study(options: Options, study: Callable[[Options], None]) -> None:
    """Run a study's work with its messages on stdout; Ctrl-C ends it with a word.

    Args:
        options: the command's flags.
        study: does the work.

    Raises:
        UserError: as the work does.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    for package in ("llava_sea", "playground"):
        logging.getLogger(package).setLevel(logging.INFO)
    try:
        study(options)
    except KeyboardInterrupt:
        print("stopped; what is finished is kept, and the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None


def make_folders(folders: Mapping[str, Path]) -> None:
    """Make the folders that a study writes into: after its first run were too late to fail.

    Args:
        folders: by the flag that names them.

    Raises:
        UserError: naming the flag, if a folder cannot be made or written.
    """
    for flag, folder in folders.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            reason = "" if os.access(folder, os.W_OK) else "it cannot be written"
        except OSError as error:
            reason = str(error.strerror)
        if reason:
            raise UserError(f"{flag}: {folder} must be a folder for files ({reason}); give another")


def do_runs(
    planned: Sequence[Planned],
    setup: Any,
    *,
    workers: int,
    only_forecast: bool,
    execute: Execute | None = None,
    overhead: int | None = None,
) -> None:
    """Do the runs that have no result yet, and say how long they will take.

    Args:
        planned: all runs of the study.
        setup: what the workers need to know; its `precision` is shown.
        workers: processes.
        only_forecast: do none.
        execute: does one run; stage 1's if not given.
        overhead: see `playground.study.forecast.seconds_left`.

    Raises:
        UserError: if a result is broken or a run fails.
    """
    from playground.study import pool
    from playground.study.forecast import OVERHEAD_STEPS, seconds_left

    overhead = OVERHEAD_STEPS if overhead is None else overhead
    done: list[tuple[Run, float]] = []
    left: list[Planned] = []
    for item in planned:
        result = item.result()
        if result is None:
            left.append(item)
        else:
            done.append((item.run, float(result["seconds"])))
    waiting = [item.run for item in left]
    print(
        f"{len(planned)} runs, {len(done)} are done, {len(left)} left: "
        f"{_clock(seconds_left(waiting, done, workers, overhead))} with {workers} worker(s) "
        f"({setup.precision})",
        flush=True,
    )
    if only_forecast or not left:
        return
    for finished in pool.run_all(setup, left, workers, execute or pool.execute):
        run = finished.planned.run
        waiting.remove(run)
        done.append((run, finished.seconds))
        print(
            f"runs: {len(done)}/{len(planned)}, "
            f"{_clock(seconds_left(waiting, done, workers, overhead))} left, "
            f"{run.name} {finished.seconds:.0f} s",
            file=sys.stderr,
            flush=True,
        )


def _clock(seconds: float) -> str:
    return "?" if math.isnan(seconds) else tqdm.format_interval(seconds)
