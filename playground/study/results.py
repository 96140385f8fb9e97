"""All finished runs put together: the numbers that tables and pictures show, in one small file.

A cell is an LLM, a length and an arm. Limits: every number is a mean over the seeds that are there;
which are missing is part of the results.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from playground.study.arms import ARMS
from playground.study.plan import Planned
from playground.study.statistics import Estimate, estimate, paired, steps_to_level

Cell = tuple[str, int, str]


class Measure(NamedTuple):
    """A measure of a run."""

    key: str
    title: str
    short: str
    better: int
    percent: bool


MEASURES = (
    Measure("caption_loss", "Caption loss (eq. 12)", "caption loss", -1, False),
    Measure(
        "answers",
        "Zero-shot answers right, mean over the kinds of question",
        "answers right",
        +1,
        True,
    ),
    Measure("tacs", "TACS (eq. 14)", "TACS", +1, False),
    Measure(
        "nearest", "Patches whose nearest word (eq. 4) is right", "nearest word right", +1, True
    ),
    Measure(
        "nearest_objects",
        "Object patches whose nearest word (eq. 4) is right",
        "nearest word right\non objects",
        +1,
        True,
    ),
)
LEVELS = ("caption_loss", "answers")
"""Measures for which the steps to plain LLaVA's last level are counted."""

BASELINE = "plain"


def collect(
    planned: Sequence[Planned], label_precision: Mapping[str, tuple[float, float] | None]
) -> dict[str, Any]:
    """Read the finished runs and average them.

    Args:
        planned: all runs of the study.
        label_precision: how often each arm's labels are true, on all and on object patches.

    Returns:
        What ``results.json`` holds; see `summarise`.
    """
    found = [(p, p.result()) for p in planned]
    done = {p.run: result for p, result in found if result is not None}
    cells: dict[Cell, dict[int, dict[str, Any]]] = defaultdict(dict)
    for run, result in done.items():
        cells[run.cell][run.seed] = result
    first = planned[0].config
    return {
        "recipe": first["recipe"],
        "precision": first["precision"],
        "seeds": 1 + max(p.run.seed for p in planned),
        "llms": list(dict.fromkeys(p.run.llm.name for p in planned)),
        "lengths": list(dict.fromkeys(p.run.steps for p in planned)),
        "arms": list(dict.fromkeys(p.run.arm for p in planned)),
        "label_precision": {arm: label_precision.get(arm) for arm in ARMS},
        "missing": [p.run.name for p, result in found if result is None],
        "runs": len(planned),
        "cpu_seconds": _round(sum(sum(r["cpu_seconds"].values()) for r in done.values())),
        "cells": [summarise(cell, cells) for cell in _cells_of(planned) if cell in cells],
    }


def _cells_of(planned: Iterable[Planned]) -> list[Cell]:
    return list(dict.fromkeys(p.run.cell for p in planned))


def summarise(cell: Cell, cells: Mapping[Cell, Mapping[int, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return a cell's numbers.

    Args:
        cell: which one.
        cells: for each cell the finished runs by seed.

    Returns:
        ``seeds``; ``final``: for each measure ``values`` by seed, ``mean`` and ``half``, and
        ``difference`` to plain LLaVA with its own half; ``answers``: the same by kind of question;
        ``curve``: ``steps``, and for each measure means and halves; ``steps_to_plain``: for each
        level the mean over the seeds that reach it, its half, and how many of how many do;
        ``temperature``.
    """
    llm, steps, arm = cell
    runs = cells[cell]
    plain = cells.get((llm, steps, BASELINE), {})
    kinds = next(iter(runs.values()))["final_answers"]
    return {
        "llm": llm,
        "steps": steps,
        "arm": arm,
        "seeds": sorted(runs),
        "final": {
            m.key: _compare(
                {s: r["final"][m.key] for s, r in runs.items()},
                {s: r["final"][m.key] for s, r in plain.items()},
            )
            for m in MEASURES
        },
        "answers": {
            kind: _compare(
                {s: r["final_answers"][kind] for s, r in runs.items()},
                {s: r["final_answers"][kind] for s, r in plain.items()},
                values=False,
            )
            for kind in kinds
        },
        "curve": _curve(runs),
        "steps_to_plain": {
            m.key: _steps_to_plain(runs, plain, m) for m in MEASURES if m.key in LEVELS
        },
        "temperature": _round(estimate([r["temperature"] or math.nan for r in runs.values()]).mean),
    }


def _compare(
    ours: Mapping[int, float], plain: Mapping[int, float], *, values: bool = True
) -> dict[str, Any]:
    mine, difference = estimate([ours[s] for s in sorted(ours)]), paired(ours, plain)
    compared: dict[str, Any] = {
        "mean": _round(mine.mean),
        "half": _round(mine.half),
        "difference": [_round(difference.mean), _round(difference.half), difference.seeds],
    }
    return compared | ({"values": {s: _round(ours[s]) for s in sorted(ours)}} if values else {})


def _curve(runs: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    curves = [run["curve"] for run in runs.values()]
    result: dict[str, Any] = {"steps": [int(point["step"]) for point in curves[0]]}
    for measure in MEASURES:
        points = [
            estimate([curve[i][measure.key] for curve in curves]) for i in range(len(curves[0]))
        ]
        result[measure.key] = [[_round(p.mean) for p in points], [_round(p.half) for p in points]]
    return result


def _steps_to_plain(
    runs: Mapping[int, Mapping[str, Any]], plain: Mapping[int, Mapping[str, Any]], measure: Measure
) -> dict[str, Any]:
    reached = []
    seeds = [seed for seed in sorted(runs) if seed in plain]
    for seed in seeds:
        curve = runs[seed]["curve"]
        level = plain[seed]["curve"][-1][measure.key]
        reached.append(
            steps_to_level(
                [int(point["step"]) for point in curve],
                [point[measure.key] for point in curve],
                level,
                better=measure.better,
            )
        )
    found = estimate([step for step in reached if step is not None])
    return {
        "mean": _round(found.mean),
        "half": _round(found.half),
        "reached": found.seeds,
        "of": len(seeds),
    }


def difference_of(compared: Mapping[str, Any]) -> Estimate:
    """Return a cell's difference to plain LLaVA."""
    mean, half, count = compared["difference"]
    return Estimate(
        math.nan if mean is None else mean, math.nan if half is None else half, int(count)
    )


def _round(value: float) -> float | None:
    """Keep five digits; nan is not JSON."""
    return None if math.isnan(value) else float(f"{value:.5g}")
