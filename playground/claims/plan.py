"""Which runs there are, in which order, and under which name each one's result lies.

As in `playground.study.plan`, whose identity of a stage 1 is part of a run's own. Stage 1's arms
are the study's; one more, `NONE`, of length 0, leaves the projector untrained. Seeds come
outermost.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from llava_sea.eval.benchmarks import BENCHMARKS
from llava_sea.labels.state import plain
from playground.claims.ablations import KNOWN
from playground.claims.exam import Exam
from playground.claims.options import NONE
from playground.claims.recipe import VERSION, ClaimsRecipe
from playground.study import plan as study_plan
from playground.study.plan import Planned, Run
from playground.study.prepare import World

BASELINE = "plain"


@dataclass(frozen=True)
class PlannedClaim(Planned):
    """A run of both stages, what it depends on, and where its result goes."""

    NEEDED: ClassVar[set[str]] = {
        *("stage1", "scores", "language", "tuning_loss", "seconds", "cpu_seconds"),
    }

    def is_whole(self, result: Mapping[str, Any]) -> bool:
        """See that the scores are eight numbers and the loss is one, too."""
        if not super().is_whole(result):
            return False
        numbers = [result["tuning_loss"], *(result["scores"].get(name) for name in BENCHMARKS)]
        return all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)


def all_runs(
    grid: Sequence[tuple[Path, Sequence[int], Sequence[str]]], seeds: Iterable[int]
) -> list[Run]:
    """Return the runs in their order: by seed, LLM, length and arm.

    Args:
        grid: each LLM with its lengths of stage 1 and its arms, of the study or the ablations, and
            `NONE`.
        seeds: outermost.
    """
    runs = []
    for seed in seeds:
        for llm, steps, arms in grid:
            trained = [arm for arm in arms if arm != NONE]
            runs += [Run(llm, length, arm, seed) for length in steps for arm in trained]
            if NONE in arms:
                runs.append(Run(llm, 0, NONE, seed))
    return runs


def plan(
    runs: Sequence[Run],
    world: World,
    exams: Sequence[Exam],
    recipe: ClaimsRecipe,
    precision: str,
    folder: Path,
) -> list[Planned]:
    """Give every run its config and its file.

    Args:
        runs: what to do.
        world: pictures, labels and held-out scenes of stage 1.
        exams: the miniature eight, once for each of their seeds.
        recipe: the hyperparameters.
        precision: of both stages.
        folder: gets the results.
    """
    as_trained = [
        dataclasses.replace(run, arm=BASELINE) if run.arm == NONE else run for run in runs
    ]
    stage1 = study_plan.plan(as_trained, world, recipe.stage1, precision, folder, KNOWN)
    stage2: dict[str, Any] = plain(asdict(recipe))
    for name in ("stage1", "learning_rate", "learning_rates"):
        del stage2[name]
    planned: list[Planned] = []
    for run, first in zip(runs, stage1, strict=True):
        config = {
            "version": VERSION,
            "stage1": first.config,
            "stage2": stage2 | {"learning_rate": recipe.learning_rate_of(run.llm.name)},
            "exams": [exam.identity for exam in exams],
        }
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
        path = folder / f"{run.name}-{digest}.json"
        planned.append(PlannedClaim(run, config, path))
    return planned
