"""The command: prepare, do the runs that are left, report (``python -m playground.study``)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llava_sea.errors import UserError, run_command
from playground.study.options import Options, parse_options

if TYPE_CHECKING:  # --help must not wait for torch
    from playground.study.plan import Planned, Run
    from playground.study.pool import Setup
    from playground.study.recipe import Recipe


def study(options: Options, recipe: Recipe | None = None) -> None:
    """Make the study, or what is left of it.

    Args:
        options: the flags.
        recipe: the hyperparameters, if not the study's.

    Raises:
        UserError: if something is missing or a run fails; what is finished is kept.
    """
    from playground.study import recipe as recipes
    from playground.study.bench import choose_precision
    from playground.study.plan import all_runs, plan
    from playground.study.pool import Setup
    from playground.study.prepare import prepare
    from playground.study.report import report

    recipe = recipe or recipes.Recipe()
    finished = options.results / "runs"
    if options.only_report and not any(finished.glob("*.json")):
        raise UserError(f"no run of the study is finished in {finished}: nothing to report")
    world = prepare(options.output, options.clip, options.arms, options.split, recipe)
    precision = choose_precision(options.precision)
    runs = all_runs(options.llms, options.lengths, options.arms, options.seeds)
    planned = plan(runs, world, recipe, precision, finished)
    if not options.only_report:
        _finish(planned, Setup(world, recipe, precision), options)
    if options.only_forecast:
        return
    path = report(planned, world, options.results)
    if path is None:
        raise UserError("no run of this study is finished: there is nothing to report")
    print(f"{path} and the pictures beside it are written")


def _finish(planned: Sequence[Planned], setup: Setup, options: Options) -> None:
    """Do the runs that have no result yet."""
    from playground.study.forecast import clock, seconds_left
    from playground.study.pool import run_all
    from playground.study.run_progress import RunProgress

    done: list[tuple[Run, float]] = []
    left: list[Planned] = []
    for item in planned:
        result = item.result()
        if result is None:
            left.append(item)
        else:
            done.append((item.run, float(result["seconds"])))
    expected = seconds_left([p.run for p in left], done, options.workers)
    print(
        f"{len(planned)} runs, {len(done)} are done, {len(left)} left: {clock(expected)} with "
        f"{options.workers} worker(s) ({setup.precision})"
    )
    if options.only_forecast or not left:
        return
    waiting = [p.run for p in left]
    with RunProgress(len(planned), len(done)) as progress:
        for finished in run_all(setup, left, options.workers):
            waiting.remove(finished.planned.run)
            done.append((finished.planned.run, finished.seconds))
            time_left = seconds_left(waiting, done, options.workers)
            progress.advance(f"{finished.planned.run.name} {finished.seconds:.0f} s", time_left)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = parse_options(arguments)
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


if __name__ == "__main__":
    run_command(main)
