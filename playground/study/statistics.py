"""Means and intervals over seeds, paired tests, Holm's correction, power, and steps saved.

Intervals are Student's t at 95 %: they are about the seeds (other starts and orders of the data),
on the same images and questions. Differences between arms are paired by seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Estimate(NamedTuple):
    """A mean over seeds, half the width of its 95 % interval, and a two-sided t-test against 0."""

    mean: float
    half: float
    seeds: int
    p: float

    @property
    def sign(self) -> int:
        """+1 or -1 if the interval lies on one side of zero, else 0."""
        if math.isnan(self.half) or abs(self.mean) <= self.half:
            return 0
        return 1 if self.mean > 0 else -1


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of some seeds' values; half and p are nan for one seed, all for none."""
    if len(values) < 2:
        return Estimate(values[0] if values else math.nan, math.nan, len(values), math.nan)
    error = float(stats.sem(values))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * error
    p = float(stats.ttest_1samp(values, 0.0).pvalue) if error > 0 else math.nan
    return Estimate(float(np.mean(values)), half, len(values), p)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate:
    """Return the mean difference, ours less theirs, over the seeds that both have."""
    return estimate([ours[seed] - theirs[seed] for seed in sorted(ours) if seed in theirs])


def holm(ps: Sequence[float]) -> list[float]:
    """Return each p corrected for the number of tests, in the order given (Holm 1979)."""
    known = [i for i, p in enumerate(ps) if not math.isnan(p)]
    corrected = [math.nan] * len(ps)
    least = 0.0
    for rank, index in enumerate(sorted(known, key=lambda i: ps[i])):
        least = max(least, min(1.0, (len(known) - rank) * ps[index]))
        corrected[index] = least
    return corrected


def power(effect: float, deviation: float, seeds: int, alpha: float = 0.05) -> float:
    """Return how likely a paired t-test over `seeds` finds an effect.

    Args:
        effect: the true mean difference.
        deviation: the standard deviation of the differences between seeds.
        seeds: at least 2.
        alpha: the test's level, two-sided.
    """
    freedom = seeds - 1
    shift = abs(effect) / deviation * math.sqrt(seeds)
    limit = stats.t.ppf(1 - alpha / 2, freedom)
    found = float(stats.nct.sf(limit, freedom, shift) + stats.nct.cdf(-limit, freedom, shift))
    return 1.0 if math.isnan(found) else found  # scipy's answer where the shift is far off


def seeds_for_power(effect: float, deviation: float, wanted: float = 0.8, most: int = 100) -> int:
    """Return the fewest seeds with which `power` is at least `wanted`; at most `most`."""
    return next((n for n in range(2, most) if power(effect, deviation, n) >= wanted), most)


def steps_to_level(
    steps: Sequence[int], values: Sequence[float], level: float, better: int
) -> float | None:
    """Return when a curve reaches a level for good; between two of its points it is a line.

    For good: a point that is there by chance, with worse ones after it, does not count.

    Args:
        steps: at which the curve is known, ascending.
        values: the curve.
        level: what is to be reached.
        better: -1 if lower is better, +1 if higher is.

    Returns:
        The step, or None if the level is not reached.
    """
    short = [better * (level - value) for value in values]  # above 0: not there yet
    first = len(short)
    while first > 0 and short[first - 1] <= 0:
        first -= 1
    if first == 0 or first == len(short):
        return float(steps[0]) if first == 0 else None
    share = short[first - 1] / (short[first - 1] - short[first])
    return steps[first - 1] + share * (steps[first] - steps[first - 1])
