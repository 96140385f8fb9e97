"""The command: prepare, do the runs that are left, report (``python -m playground.study``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llava_sea.errors import UserError, run_command
from playground.study.command import do_runs, make_folders, run_study
from playground.study.options import Options, parse_options

if TYPE_CHECKING:  # --help must not wait for torch
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
    results = {} if options.only_forecast else {"--results": options.results}
    make_folders({"--output": options.output, **results})
    world = prepare(options.output, options.clip, options.arms, options.split, recipe)
    precision = choose_precision(options.precision)
    runs = all_runs(options.llms, options.lengths, options.arms, options.seeds)
    planned = plan(runs, world, recipe, precision, finished)
    if not options.only_report:
        do_runs(
            planned,
            Setup(world, recipe, precision),
            workers=options.workers,
            only_forecast=options.only_forecast,
        )
    if options.only_forecast:
        return
    path = report(planned, world, options.results)
    if path is None:
        raise UserError("no run of this study is finished: there is nothing to report")
    print(f"{path} and the pictures beside it are written")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_study(parse_options(arguments), study)


if __name__ == "__main__":
    run_command(main)
