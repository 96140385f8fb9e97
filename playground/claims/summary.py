"""All finished runs put together: ``summary.json``, what tables and pages show.

A cell is an LLM, a length of stage 1 and an arm. A seed's gain is the paper's 7.61 % in small: the
mean over the benchmarks of the difference to plain LLaVA of the same LLM, length and seed, in
percent of what plain LLaVA scores on average over seeds (one run's score would be a noisy
denominator). Benchmarks on which plain LLaVA is below `FLOOR` have no ratio worth the name and are
left out, by name; the gain with none left out stands beside. The arm without stage 1 has no plain
LLaVA of its length, so no gain. The claims have a second gain, over the paper with the sign
measured; the ablations, whose baseline is `best`, one over plain LLaVA.
Limits: means are over the seeds that are there; which are missing is part of the summary.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from llava_sea.eval.benchmarks import TASKS
from llava_sea.eval.compare import FLOOR
from playground.claims.language import FORMS
from playground.claims.plan import BASELINE
from playground.claims.significance import sign_flip_p, t_test_p
from playground.study.plan import Planned
from playground.study.results import Cell
from playground.study.statistics import Estimate, estimate, paired

BENCHMARKS = {task.benchmark: task.title for task in TASKS}
"""The eight's titles by key, in the paper's order."""

SECOND = "sea-paper-sign"
"""What gains are also measured from where plain LLaVA is the baseline; else that is plain LLaVA."""

CURVE = ("caption_loss", "tacs", "gap", "nearest_objects", "answers")
"""Measures of stage 1 that are kept over its steps."""

WHEN = ("before", "middle", "after")
"""When in stage 2 the LLM is asked without pictures."""

Results = Mapping[int, Mapping[str, Any]]
"""A cell's finished runs by seed."""


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
        "cpu_seconds": _round(sum(sum(r["cpu_seconds"].values()) for r in done)),
        "cells": [
            _cell(
                cell,
                cells[cell],
                cells.get((*cell[:2], baseline), {}),
                cells.get((*cell[:2], second), {}),
                (baseline, second),
            )
            for cell in dict.fromkeys(p.run.cell for p in planned)
            if cell in cells
        ],
    }


def levels_of(base: Results, floor: float = FLOOR) -> dict[str, float]:
    """Return the baseline's mean score over seeds, of the benchmarks where it has `floor`."""
    levels = {
        name: fmean([run["scores"][name] for run in base.values()]) if base else 0.0
        for name in BENCHMARKS
    }
    return {name: level for name, level in levels.items() if level >= floor}


def gain_of(
    scores: Mapping[str, float], base: Mapping[str, float], levels: Mapping[str, float]
) -> float:
    """Return the mean over the benchmarks in `levels` of the difference in percent of the level."""
    if not levels:
        return math.nan
    return fmean([100.0 * (scores[name] - base[name]) / level for name, level in levels.items()])


def _cell(
    cell: Cell, runs: Results, base: Results, second: Results, compared: tuple[str, str]
) -> dict[str, Any]:
    """Return a cell's numbers.

    ``scores``: of each benchmark mean, half and difference to the baseline; ``mean``: the same for
    the mean of the eight; ``tuning_loss``: the same for stage 2's last tenth; ``gain``: by seed,
    mean, half, p values, ``second_gain`` likewise over the other arm in `compared`,
    ``gain_of_all`` with no benchmark left out, empty where the baseline has nothing on one;
    ``language`` and ``stage1``: means and halves; ``by_seed``: every run's scores.
    """
    llm, steps, arm = cell
    means = {seed: _mean_of(run) for seed, run in runs.items()}
    base_means = {seed: _mean_of(run) for seed, run in base.items()}
    gains = {
        name: _gain(runs, known if arm != other else {}, levels_of(known))
        for name, known, other in zip(
            ("gain", "second_gain"), (base, second), compared, strict=True
        )
    }
    others = base if arm != compared[0] else {}
    positive = levels_of(others, 1e-9)
    of_all = _gain(runs, others, positive if len(positive) == len(BENCHMARKS) else {})
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
        **gains,
        "gain_of_all": {name: of_all[name] for name in ("mean", "half", "seeds", "by_seed")},
        "language": {
            form: {
                when: _estimate([run["language"][when][form] for run in runs.values()])
                for when in WHEN
            }
            for form in FORMS
        },
        "stage1": _stage1(runs),
        "by_seed": {
            str(seed): {**run["scores"], "mean": _round(means[seed])}
            for seed, run in sorted(runs.items())
        },
    }


def _gain(runs: Results, base: Results, levels: Mapping[str, float]) -> dict[str, Any]:
    gains = {s: gain_of(runs[s]["scores"], base[s]["scores"], levels) for s in runs if s in base}
    known = [gain for _, gain in sorted(gains.items()) if not math.isnan(gain)]
    return _as_json(estimate(known)) | {
        "by_seed": {str(seed): _round(gain) for seed, gain in sorted(gains.items())},
        "left_out": [name for name in BENCHMARKS if name not in levels],
        "sign_flip_p": _round(sign_flip_p(known)),
        "t_test_p": _round(t_test_p(known)),
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
            name: [_round(estimate([curve[i][name] for curve in curves]).mean) for i in points]
            for name in CURVE
        },
    }


def _mean_of(run: Mapping[str, Any]) -> float:
    return fmean([run["scores"][name] for name in BENCHMARKS])


def _compare(ours: Mapping[int, float], base: Mapping[int, float]) -> dict[str, Any]:
    found = _estimate([ours[seed] for seed in sorted(ours)])
    return found | {"difference": _as_json(paired(ours, base))}


def _estimate(values: Sequence[float]) -> dict[str, Any]:
    return _as_json(estimate(values))


def _as_json(found: Estimate) -> dict[str, Any]:
    return {"mean": _round(found.mean), "half": _round(found.half), "seeds": found.seeds}


def _round(value: float) -> float | None:
    """Keep five digits; nan is not JSON."""
    return None if math.isnan(value) else float(f"{value:.5g}")
