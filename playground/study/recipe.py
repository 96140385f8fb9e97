"""All numbers of the study in one place: data, optimisation, what is measured and how often.

Limits: one recipe for every LLM, length and arm; only the schedule stretches with the length.
"""

from __future__ import annotations

from dataclasses import dataclass

VERSION = 1
"""Counts up when the procedure of a run changes; runs of another version are done again."""


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters; every field is part of a run's identity."""

    num_train: int = 8000
    """Training pictures: no picture comes twice within 250 steps of 32."""
    world_seed: int = 0
    min_count: int = 1
    """Words and phrases that occur less often in the captions are left out of the word list."""
    true_top_n: int = 10
    """True words kept for a patch in the arm of true labels, the most frequent."""

    batch: int = 32
    learning_rate: float = 2e-3
    warmup_ratio: float = 0.03
    max_grad_norm: float = 1.0

    curve_shares: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
    """Parts of a run after which the smaller held-out set is measured."""
    curve_pictures: int = 128
    curve_per_kind: int = 20
    """Questions of each kind on the curve: the first of the final ones."""
    final_pictures: int = 256
    final_per_kind: int = 100
    eval_batch: int = 64

    def curve_steps(self, steps: int) -> tuple[int, ...]:
        """Return the steps after which a run of so many is measured: 0, ..., `steps`."""
        return tuple(sorted({round(share * steps) for share in self.curve_shares} | {0, steps}))
