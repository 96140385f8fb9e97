"""The command: prepare, do the runs that are left, report (``python -m playground.claims``)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llava_sea.errors import UserError, run_command
from playground.claims.options import NONE, Options, parse_options

if TYPE_CHECKING:  # --help must not wait for torch
    from playground.claims.recipe import ClaimsRecipe
    from playground.claims.work import Setup
    from playground.study.plan import Planned, Run

STAGE2_STEPS = 700
"""Stage 2 and the questions take about as long as so many steps of stage 1."""


def claims(options: Options, recipe: ClaimsRecipe | None = None) -> None:
    """Make the study, or what is left of it.

    Args:
        options: the flags.
        recipe: the hyperparameters, if not the study's.

    Raises:
        UserError: if something is missing or a run fails; what is finished is kept.
    """
    from playground.claims import recipe as recipes
    from playground.claims.ablations import KNOWN
    from playground.claims.exam import prepare_exams
    from playground.claims.plan import all_runs, plan
    from playground.claims.report import report, report_ablations
    from playground.claims.work import Setup
    from playground.study.bench import choose_precision
    from playground.study.prepare import prepare

    recipe = recipe or recipes.ClaimsRecipe()
    finished = options.results / "runs"
    if options.only_report and not any(finished.glob("*.json")):
        raise UserError(f"no run of the study is finished in {finished}: nothing to report")
    mined = [arm for arm in options.arms if arm != NONE]
    world = prepare(options.world, options.clip, mined, options.split, recipe.stage1, KNOWN)
    exams = prepare_exams(options.data, options.clip, options.split, recipe.benchmark_seeds)
    precision = choose_precision(options.precision)
    lengths = [(llm, options.lengths_of(llm)) for llm in options.llms]
    runs = all_runs(lengths, options.arms, options.seeds)
    planned = plan(runs, world, exams, recipe, precision, finished)
    if not options.only_report:
        _finish(planned, Setup(world, exams, recipe, precision), options)
    if options.only_forecast:
        return
    folder, split, quick = options.results, options.split, options.quick
    if options.ablations:
        print(report_ablations(planned, folder, split, quick=quick))
    else:
        print(report(planned, folder, options.page, split, quick=quick))


def _finish(planned: Sequence[Planned], setup: Setup, options: Options) -> None:
    """Do the runs that have no result yet."""
    from playground.claims.work import execute
    from playground.study import pool
    from playground.study.forecast import clock, seconds_left
    from playground.study.run_progress import RunProgress

    done: list[tuple[Run, float]] = []
    left: list[Planned] = []
    for item in planned:
        result = item.result()
        if result is None:
            left.append(item)
        else:
            done.append((item.run, float(result["seconds"])))
    expected = seconds_left([p.run for p in left], done, options.workers, STAGE2_STEPS)
    print(
        f"{len(planned)} runs, {len(done)} are done, {len(left)} left: {clock(expected)} with "
        f"{options.workers} worker(s) ({setup.precision})",
        flush=True,
    )
    if options.only_forecast or not left:
        return
    waiting = [p.run for p in left]
    with RunProgress(len(planned), len(done)) as progress:
        for finished in pool.run_all(setup, left, options.workers, execute):
            waiting.remove(finished.planned.run)
            done.append((finished.planned.run, finished.seconds))
            time_left = seconds_left(waiting, done, options.workers, STAGE2_STEPS)
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
        claims(options)
    except KeyboardInterrupt:
        print("stopped; what is finished is kept, and the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    run_command(main)
