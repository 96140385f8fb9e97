"""How long the runs that are left will take, from those that are done.

A run's time is that of the finished ones with the same LLM and length, else of the same LLM's per
step, else of all per step and parameter. Limits: knows nothing before the first run is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from playground.study.plan import Run

OVERHEAD_STEPS = 60
"""Measuring and starting cost a run about as much as so many steps."""


def seconds_left(
    left: Sequence[Run],
    done: Iterable[tuple[Run, float]],
    workers: int,
    overhead: int = OVERHEAD_STEPS,
) -> float:
    """Estimate the seconds until all runs are done; nan if none has been yet.

    Args:
        left: runs to do.
        done: finished runs and their seconds.
        workers: processes.
        overhead: steps that the rest of a run costs about as much as.
    """
    finished = list(done)
    return sum(_expected(run, finished, overhead) for run in left) / workers


def _expected(run: Run, done: Sequence[tuple[Run, float]], overhead: int) -> float:
    alike = [s for r, s in done if (r.llm, r.steps) == (run.llm, run.steps)]
    if alike:
        return sum(alike) / len(alike)
    cost = run.steps + overhead
    same_llm = [(r.steps + overhead, s) for r, s in done if r.llm == run.llm]
    if same_llm:
        return cost * sum(s for _, s in same_llm) / sum(c for c, _ in same_llm)
    weighed = [((r.steps + overhead) * _weight(r.llm), s) for r, s in done]
    if not weighed:
        return float("nan")
    return cost * _weight(run.llm) * sum(s for _, s in weighed) / sum(c for c, _ in weighed)


def _weight(llm: Path) -> float:
    """Work per step grows with the weights, but a small LLM has its overhead."""
    return 1e6 + (llm / "model.safetensors").stat().st_size
