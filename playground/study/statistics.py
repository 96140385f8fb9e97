"""Means and intervals over seeds, and how many steps an arm needs to reach a level.

Intervals are Student's t at 95 %, so they are about the seeds: other starts and other orders of the
data, on the same pictures and questions. Differences between arms are paired by seed, for the arms
of a seed share start and order. Pure functions of numbers, standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""The 97.5 % points of Student's t for 1, 2, ... degrees of freedom; beyond them the last."""


class Estimate(NamedTuple):
    """A mean over seeds and half the width of its 95 % interval (nan for one seed)."""

    mean: float
    half: float
    seeds: int

    @property
    def sign(self) -> int:
        """+1 or -1 if the interval lies on one side of zero, else 0."""
        if math.isnan(self.half) or abs(self.mean) <= self.half:
            return 0
        return 1 if self.mean > 0 else -1


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of some seeds' values with its t-interval."""
    count = len(values)
    if not count:
        return Estimate(math.nan, math.nan, 0)
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(mean, math.nan, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    quantile = T_975[min(count - 1, len(T_975)) - 1]
    return Estimate(mean, quantile * math.sqrt(variance / count), count)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate:
    """Return the mean difference, ours less theirs, over the seeds that both have."""
    return estimate([ours[seed] - theirs[seed] for seed in sorted(ours) if seed in theirs])


def steps_to_level(
    steps: Sequence[int], values: Sequence[float], level: float, *, better: int
) -> float | None:
    """Return when a curve reaches a level for good; between two of its points it is a line.

    For good: a point that is there by chance, with worse ones after it, does not count. Nothing is
    smoothed: the values are measures of the whole held-out set, not of a batch.

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
