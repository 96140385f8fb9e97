"""All finished runs put together: ``summary.json``, what tables and pages show.

A cell is an LLM, a length of stage 1 and an arm. Its gain (`playground.claims.gains`) is over plain
LLaVA of the same LLM, length and seed; the gain with no benchmark left out stands beside. The
claims have a second gain, over the paper with the sign measured, and a third, over the arm without
stage 1, which has no length and no gain over plain LLaVA; the ablations, whose baseline is `best`,
have a second over plain LLaVA.
Limits: means are over the seeds that are there; which are missing is part of the summary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from playground.claims.gains import (
    BENCHMARKS,
    Results,
    as_json,
    gain_of_all,
    gain_over,
    rounded,
)
from playground.claims.language import FORMS
from playground.claims.options import NONE
from playground.claims.plan import BASELINE
from playground.claims.significance import holm
from playground.study.plan import Planned
from playground.study.results import Cell
from playground.study.statistics import estimate, paired

SECOND = "sea-paper-sign"
"""What gains are also measured from where plain LLaVA is the baseline; else that is plain LLaVA."""

CURVE = ("caption_loss", "tacs", "gap", "nearest_objects", "answers")
"""Measures of stage 1 that are kept over its steps."""

WHEN = ("before", "middle", "after")
"""When in stage 2 the LLM is asked without pictures."""


def summarise(planned: Sequence[Planned], split: str, baseline: str = BASELINE) -> dict[str, Any]:
    """Read the finished runs and average them.

    Args:
        planned: all runs of the study.
        split: whose scenes were asked about.
        baseline: the arm that gains and differences are measured from.

    Returns:
        What ``summary.json`` holds; see `_cell`.
    """
    found = [(p, p.result()) for p in planned]
    cells: dict[Cell, dict[int, dict[str, Any]]] = defaultdict(dict)
    for item, result in found:
        if result is not None:
            cells[item.run.cell][item.run.seed] = result
    done = [result for _, result in found if result is not None]
    first = planned[0].config
    arms = list(dict.fromkeys(p.run.arm for p in planned))
    second = SECOND if baseline == BASELINE else BASELINE
    made = [
        _cell(
            cell,
            cells[cell],
            {arm: cells.get((*cell[:2], arm), {}) for arm in (baseline, second)}
            | {NONE: cells.get((cell[0], 0, NONE), {})},
            (baseline, second),
        )
        for cell in dict.fromkeys(p.run.cell for p in planned)
        if cell in cells
    ]
    _correct([cell["gain"] for cell in made])
    return {
        "split": split,
        "baseline": baseline,
        "second": second if second in arms else None,
        "recipe": {
            "stage1": first["stage1"]["recipe"],
            "stage2": first["stage2"],
            "learning_rates": {
                p.run.llm.name: p.config["stage2"]["learning_rate"] for p in planned
            },
        },
        "precision": first["stage1"]["precision"],
        "exams": first["exams"],
        "seeds": sorted({p.run.seed for p in planned}),
        "llms": list(dict.fromkeys(p.run.llm.name for p in planned)),
        "arms": arms,
        "runs": len(planned),
        "missing": [p.run.name for p, result in found if result is None],
        "cpu_seconds": rounded(sum(sum(r["cpu_seconds"].values()) for r in done)),
        "median_cpu_seconds": {
            llm: rounded(median(taken)) for llm, taken in _cpu_seconds(cells).items()
        },
        "cells": made,
    }


def _cpu_seconds(cells: Mapping[Cell, Results]) -> dict[str, list[float]]:
    """Return what each run of an LLM took."""
    taken: dict[str, list[float]] = defaultdict(list)
    for (llm, _, _), runs in cells.items():
        taken[llm] += [sum(run["cpu_seconds"].values()) for run in runs.values()]
    return taken


def _correct(gains: Sequence[dict[str, Any]]) -> None:
    """Put Holm's p beside the t-test's of all gains that are tested."""
    tested = [gain for gain in gains if gain["t_test_p"] is not None]
    for gain, p in zip(tested, holm([gain["t_test_p"] for gain in tested]), strict=True):
        gain["holm_p"] = rounded(p)


def _cell(
    cell: Cell, runs: Results, others: Mapping[str, Results], compared: tuple[str, str]
) -> dict[str, Any]:
    """Return a cell's numbers.

    ``scores``: of each benchmark mean, half and difference to the baseline; ``mean``: the same for
    the mean of the eight; ``tuning_loss``: the same for stage 2's last tenth; ``gain`` over the
    baseline, the first of `compared` (see `gain_over`), with ``holm_p`` where it is tested;
    ``second_gain`` over the second, ``gain_over_none`` over no stage 1; ``gain_of_all`` with no
    benchmark left out; ``language`` and ``stage1``: means and halves; ``by_seed``: every run's
    scores.
    """
    llm, steps, arm = cell
    base = others[compared[0]]
    means = {seed: _mean_of(run) for seed, run in runs.items()}
    base_means = {seed: _mean_of(run) for seed, run in base.items()}
    over = {name: found if name != arm else {} for name, found in others.items()}
    return {
        "llm": llm,
        "steps": steps,
        "arm": arm,
        "seeds": sorted(runs),
        "scores": {
            name: _compare(
                {s: run["scores"][name] for s, run in runs.items()},
                {s: run["scores"][name] for s, run in base.items()},
            )
            for name in BENCHMARKS
        },
        "mean": _compare(means, base_means),
        "tuning_loss": _compare(
            *({s: r["tuning_loss"] for s, r in c.items()} for c in (runs, base))
        ),
        "gain": gain_over(runs, over[compared[0]]),
        "second_gain": gain_over(runs, over[compared[1]]),
        "gain_over_none": gain_over(runs, over[NONE]),
        "gain_of_all": gain_of_all(runs, over[compared[0]]),
        "language": {
            form: {
                when: _estimate([run["language"][when][form] for run in runs.values()])
                for when in WHEN
            }
            for form in FORMS
        },
        "stage1": _stage1(runs),
        "by_seed": {
            str(seed): {**run["scores"], "mean": rounded(means[seed])}
            for seed, run in sorted(runs.items())
        },
    }


def _stage1(runs: Results) -> dict[str, Any]:
    curves = [run["stage1"]["curve"] for run in runs.values()]
    points = range(len(curves[0]))
    return {
        "final": {
            name: _estimate([run["stage1"]["final"][name] for run in runs.values()])
            for name in CURVE
        },
        "steps": [int(point["step"]) for point in curves[0]],
        "curve": {
            name: [rounded(estimate([curve[i][name] for curve in curves]).mean) for i in points]
            for name in CURVE
        },
    }


def _mean_of(run: Mapping[str, Any]) -> float:
    return fmean([run["scores"][name] for name in BENCHMARKS])


def _compare(ours: Mapping[int, float], base: Mapping[int, float]) -> dict[str, Any]:
    found = _estimate([ours[seed] for seed in sorted(ours)])
    return found | {"difference": as_json(paired(ours, base))}


def _estimate(values: Sequence[float]) -> dict[str, Any]:
    return as_json(estimate(values))
