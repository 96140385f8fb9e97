"""Relative gains of one arm over another, seed by seed, and which benchmarks they come from.

A seed's gain is the paper's 7.61 % in small: the mean over the benchmarks of the difference to the
other arm's run of the same LLM and seed, in percent of what that arm scores on average over seeds
(one run's score would be a noisy denominator). Benchmarks on which it is below `FLOOR` have no
ratio worth the name and are left out, by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from llava_sea.eval.benchmarks import TASKS
from llava_sea.eval.score import FLOOR
from playground.claims.significance import sign_flip_p, t_test_p
from playground.study.statistics import Estimate, estimate

BENCHMARKS = {task.benchmark: task.title for task in TASKS}
"""The eight's titles by key, in the paper's order."""

Results = Mapping[int, Mapping[str, Any]]
"""A cell's finished runs by seed."""


def levels_of(base: Results, floor: float = FLOOR) -> dict[str, float]:
    """Return the mean scores over seeds, of the benchmarks where they have `floor`."""
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


def gain_over(runs: Results, base: Results) -> dict[str, Any]:
    """Return the gain of some runs over others, paired by seed.

    Args:
        runs: whose gain.
        base: over what; without any there is no gain.

    Returns:
        ``mean`` and ``half`` over ``seeds``, ``by_seed``, ``left_out``, ``sign_flip_p``,
        ``t_test_p``; ``parts``: how much of the mean comes from each benchmark, adding up to it;
        ``without``: ``mean`` and ``half`` without the ``benchmark`` that the gain hangs on most:
        without which its interval is the nearest to zero or the farthest beyond.
    """
    levels = levels_of(base)
    gains = _by_seed(runs, base, levels)
    known = list(gains.values())
    return _averaged(gains) | {
        "left_out": [name for name in BENCHMARKS if name not in levels],
        "sign_flip_p": rounded(sign_flip_p(known)),
        "t_test_p": rounded(t_test_p(known)),
        **_parts(runs, base, levels),
    }


def gain_of_all(runs: Results, base: Results) -> dict[str, Any]:
    """Return the gain with no benchmark left out; none where the base has nothing on one."""
    levels = levels_of(base, 1e-9)
    return _averaged(_by_seed(runs, base, levels if len(levels) == len(BENCHMARKS) else {}))


def _by_seed(runs: Results, base: Results, levels: Mapping[str, float]) -> dict[int, float]:
    """Return the gains of the seeds that both have, in order; none without a level."""
    seeds = sorted(runs.keys() & base.keys()) if levels else []
    return {s: gain_of(runs[s]["scores"], base[s]["scores"], levels) for s in seeds}


def _averaged(gains: Mapping[int, float]) -> dict[str, Any]:
    by_seed = {str(seed): rounded(gain) for seed, gain in gains.items()}
    return as_json(estimate(list(gains.values()))) | {"by_seed": by_seed}


def _parts(runs: Results, base: Results, levels: Mapping[str, float]) -> dict[str, Any]:
    alone = {name: _by_seed(runs, base, {name: level}) for name, level in levels.items()}
    parts = {
        name: fmean(gains.values()) / len(levels) for name, gains in alone.items() if len(gains)
    }
    if not parts:
        return {"parts": {}, "without": None}
    direction = math.copysign(1.0, math.fsum(parts.values()))
    without = {}
    for name in parts:
        kept = {other: level for other, level in levels.items() if other != name}
        without[name] = estimate(list(_by_seed(runs, base, kept).values()))
    least = min(without, key=lambda name: _nearest_end(without[name], direction))
    return {
        "parts": {name: rounded(part) for name, part in parts.items()},
        "without": {"benchmark": least, **as_json(without[least])},
    }


def _nearest_end(found: Estimate, direction: float) -> float:
    """Return the end of the interval that is nearest to no gain or the farthest beyond it."""
    return direction * found.mean - (0.0 if math.isnan(found.half) else found.half)


def as_json(found: Estimate) -> dict[str, Any]:
    """Return an estimate as a dict of numbers."""
    return {"mean": rounded(found.mean), "half": rounded(found.half), "seeds": found.seeds}


def rounded(value: float) -> float | None:
    """Keep five digits; nan is not JSON."""
    return None if math.isnan(value) else float(f"{value:.5g}")
