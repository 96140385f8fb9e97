"""Relative gains of one checkpoint over another, between scores of the same protocol alone.

The paper's 7.61 % is the mean of Gemma-2B's eight relative gains (arXiv 2408.11813, table 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llava_sea.eval.outcome import Task
from llava_sea.eval.score import Score

FLOOR = 5.0
"""Points that a baseline should score for a relative gain: below it a few questions are 100 %."""


def relative_gain(value: float, baseline: float) -> float | None:
    """Return by how many percent a value is above the baseline's; None over a baseline of 0."""
    return 100.0 * (value / baseline - 1.0) if baseline else None


def gains(scores: Mapping[str, Score], baseline: Mapping[str, Score]) -> dict[str, float]:
    """Return the relative gain, in percent, of each task whose two scores may be compared."""
    found = {}
    for name, score in scores.items():
        other = baseline.get(name)
        if other is not None and score.comparable(other):
            gain = relative_gain(score.value, other.value)
            if gain is not None:
                found[name] = gain
    return found


def one_a_benchmark(found: Mapping[str, float], tasks: Sequence[Task]) -> dict[str, float]:
    """Return the gains that a mean is of: of a benchmark's splits the first that has one.

    Args:
        found: gains by task.
        tasks: their order, of two splits the one that LLaVA reports first.
    """
    first: dict[str, str] = {}
    for task in tasks:
        if task.name in found:
            first.setdefault(task.benchmark, task.name)
    return {name: found[name] for name in first.values()}
