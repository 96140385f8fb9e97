"""The command: prepare, do the runs that are left, report (``python -m playground.claims``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llava_sea.errors import UserError, run_command
from playground.claims.options import NONE, Options, parse_options
from playground.study.command import do_runs, make_folders, run_study

if TYPE_CHECKING:  # --help must not wait for torch
    from playground.claims.recipe import ClaimsRecipe

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
    from playground.claims.report import count_others, report, report_ablations
    from playground.claims.work import Setup, execute
    from playground.study.bench import choose_precision
    from playground.study.prepare import prepare

    recipe = recipe or recipes.ClaimsRecipe()
    finished = options.results / "runs"
    if options.only_report and not any(finished.glob("*.json")):
        raise UserError(f"no run of the study is finished in {finished}: nothing to report")
    if not options.only_forecast:
        page = {} if options.ablations else {"--output": options.page.parent}
        make_folders({"--results": options.results, **page})
    make_folders({"--world": options.world, "--data": options.data})
    mined = [arm for arm in options.all_arms() if arm != NONE]
    world = prepare(options.world, options.clip, mined, options.split, recipe.stage1, KNOWN)
    exams = prepare_exams(options.data, options.clip, options.split, recipe.benchmark_seeds)
    precision = choose_precision(options.precision)
    grid = [(llm, options.lengths_of(llm), options.arms_of(llm)) for llm in options.llms]
    runs = all_runs(grid, options.seeds)
    planned = plan(runs, world, exams, recipe, precision, finished)
    if not options.only_report:
        do_runs(
            planned,
            Setup(world, exams, recipe, precision),
            workers=options.workers,
            only_forecast=options.only_forecast,
            execute=execute,
            overhead=STAGE2_STEPS,
        )
    if options.only_forecast:
        return
    folder = None if options.is_part() else options.results
    print(count_others(planned, finished) if folder else "", end="")
    if options.ablations:
        print(report_ablations(planned, folder, options.split, quick=options.quick))
    else:
        print(report(planned, folder, options.page, options.split, quick=options.quick))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_study(parse_options(arguments), claims)


if __name__ == "__main__":
    run_command(main)
