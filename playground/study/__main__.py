"""The study: what an LLM learns from an image, with and without SEA.

    python -m playground.study run       # the runs that are left, about ten hours on two cores
    python -m playground.study report    # tables and figures from the committed lines

Stop it at any moment; the same command resumes. Several machines share the work by ``--seeds`` or
``--llms``, each with ``--results`` of its own in the same folder.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llava_sea.errors import UserError, run_command
from llava_sea.progress import Progress
from playground.study.recipe import COUNTED, LLMS, SEEDS, Recipe, Stage1, Stage2

if TYPE_CHECKING:  # --help must not wait for torch
    from playground.study.plan import Run

PLAYGROUND = Path(__file__).parent.parent
QUICK = Recipe(
    num_train=400, scenes=40, per_kind=8, aligned_scenes=16, mir_scenes=4,
    stage1=(("llm-small", Stage1(20, 8)),), stage2=(("llm-small", Stage2(20, 8, 3e-3)),),
)  # fmt: skip
"""Shows in minutes that all works; no evidence."""


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m playground.study", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("command", choices=("run", "report"))
    add("--llms", nargs="+", choices=LLMS, help="(default: all)")
    add("--arms", nargs="+", help="(default: those of the plan)")
    add("--seeds", nargs="+", type=int, help=f"(default: {' '.join(map(str, SEEDS))})")
    add("--stage", type=int, choices=(1, 2), default=2, help="the last stage that is run")
    add("--split", choices=("test", "dev"), default="test", help="scenes; dev to choose on")
    add("--workers", type=int, default=2, help="processes of one thread")
    add("--data", type=Path, default=PLAYGROUND / "data" / "study", help="images, labels, features")
    add("--results", type=Path, help="file that gets the lines (default: results/runs.jsonl)")
    add(
        "--quick", action="store_true", default=bool(os.environ.get("QUICK")),
        help="minutes, llm-small, two seeds; shows that all works and is no evidence",
    )  # fmt: skip
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    from playground.study import plan, report
    from playground.study.arms import ARMS

    options = parse_options(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    for package in ("llava_sea", "playground"):
        logging.getLogger(package).setLevel(logging.INFO)
    recipe = QUICK if options.quick else Recipe(split=options.split)
    place = options.data / "quick" / "runs.jsonl" if options.quick else plan.RESULTS
    results = options.results or place
    if options.command == "report":
        found = plan.read_results(results.parent)
        if not found:
            raise UserError(f"{results.parent}: holds no finished run")
        report.write(found, results.parent)
        return
    llms = options.llms or (["llm-small"] if options.quick else list(LLMS))
    seeds = options.seeds or ((0, 1) if options.quick else SEEDS)
    arms: dict[int, Sequence[str]] = dict(COUNTED)
    if unknown := set(options.arms or ()) - ARMS.keys():
        raise UserError(f"--arms {' '.join(unknown)}: choose from {', '.join(ARMS)}")
    if options.arms:
        arms = {options.stage: options.arms}
    elif options.stage == 1:
        arms = {1: list(dict.fromkeys([*COUNTED[1], *COUNTED[2]]))}
    _run(options, recipe, results, plan.all_runs(llms, arms, seeds))
    if options.quick:
        report.write(plan.read_results(results.parent), results.parent)


def _run(options: argparse.Namespace, recipe: Recipe, results: Path, runs: Sequence[Run]) -> None:
    """Do the runs that have no line yet."""
    from playground import smollm2
    from playground.study import plan, pool
    from playground.study.prepare import prepare

    if any(run.llm == "smollm2" for run in runs):
        smollm2.make()
    made = plan.made_with(recipe, runs)
    done = plan.read_results(results.parent, made) if results.parent.is_dir() else {}
    left = [run for run in runs if run not in done and run._replace(stage=2) not in done]
    arms = list(dict.fromkeys(run.arm for run in runs))
    world = prepare(options.data, PLAYGROUND / "models" / "clip", arms, recipe)
    results.parent.mkdir(parents=True, exist_ok=True)
    plan.write_recipe(results.parent, recipe)
    with Progress("runs", len(left)) as progress:
        setup = pool.Setup(world, recipe, results, made)
        for run, seconds in pool.run_all(setup, left, options.workers):
            logging.getLogger("playground").info("%s: %.0f s", run.name, seconds)
            progress.update(1)


if __name__ == "__main__":
    run_command(main)
