"""All numbers of the claims' study in one place: stage 1's recipe, stage 2, what is asked.

Limits: one recipe for every LLM and arm, but for stage 2's learning rate, which each LLM has its
own; only the length of stage 1 is varied.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from playground.study.recipe import Recipe

VERSION = 1
"""Counts up when the procedure of a run changes; runs of another version are done again."""


@dataclass(frozen=True)
class ClaimsRecipe:
    """Hyperparameters; every field is part of a run's identity."""

    stage1: Recipe = field(default_factory=Recipe)

    records: int = 14_000
    """Instruction records used, the first ones: the world's all."""
    tuning_steps: int = 1750
    """With `batch`, one epoch of the records, so that the last tenth meets new ones."""
    batch: int = 8
    system_prompt: bool = False
    """Whether v1's system prompt stands before a conversation. The world's LLMs never met its
    words: it is 81 pieces of tokens, which a record of 134 on the average would have beside."""
    bfloat16_from_width: int = 128
    """Hidden size from which stage 2 multiplies in bfloat16 where the CPU does: below it the casts
    cost more than the products save."""
    learning_rate: float = 1.5e-3
    """Of stage 2, for LLM and projector; see `learning_rates`."""
    learning_rates: tuple[tuple[str, float], ...] = (("llm-medium", 5e-4), ("llm-large", 4e-4))
    """Of LLMs, by their folders' names, that want another one."""
    warmup_ratio: float = 0.03
    max_grad_norm: float = 1.0

    benchmark_seeds: tuple[int, ...] = (0, 1, 2, 3)
    """Each makes the eight anew, with other scenes of the split; a run's score is their mean."""
    max_new_tokens: int = 32
    """Longest answer; the longest perfect answer to the miniature eight has ten tokens."""
    answer_batch: int = 64

    def learning_rate_of(self, llm: str) -> float:
        """Return stage 2's learning rate for the LLM in a folder of this name."""
        return dict(self.learning_rates).get(llm, self.learning_rate)
