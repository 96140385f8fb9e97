"""What a worker does: one run, its result written by itself (`playground.study.pool` calls it)."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from playground.claims.ablations import KNOWN
from playground.claims.exam import Exam
from playground.claims.options import NONE
from playground.claims.recipe import ClaimsRecipe
from playground.study.plan import Planned
from playground.study.prepare import World


class Setup(NamedTuple):
    """What a worker needs to know beside its runs."""

    world: World
    exams: tuple[Exam, ...]
    recipe: ClaimsRecipe
    precision: str


def execute(setup: Setup, planned: Planned) -> float:
    """Do one run and write its result; return the seconds it took."""
    from llava_sea.train.arguments import SeaArguments
    from playground.claims.run import claims_run

    started = time.monotonic()
    run = planned.run
    sea, num_warm = SeaArguments(), 0
    if run.arm != NONE:
        arm = KNOWN[run.arm]
        labels, num_warm = setup.world.labels(arm), arm.warm_start
        sea = arm.arguments(str(labels) if labels else None)
    measured = claims_run(_bench(setup, planned), sea, run.steps, run.seed, num_warm)
    seconds = time.monotonic() - started
    planned.save(measured | {"seconds": round(seconds, 1)})
    return seconds


_benches: dict[Any, Any] = {}


def _bench(setup: Setup, planned: Planned) -> Any:
    """Load an LLM the first time that this process needs it."""
    from playground.claims.bench import ClaimsBench

    key = (planned.run.llm, setup)
    if key not in _benches:
        _benches[key] = ClaimsBench(
            setup.world, setup.exams, planned.run.llm, setup.recipe, setup.precision
        )
    return _benches[key]
