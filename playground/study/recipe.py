"""The plan of the study, fixed before the first counted run: what is trained, measured and tested.

Later came the arm `warm` and the numbers of stage 2, both by trials on dev scenes and before the
first line of their own; SmolLM2's stage 2 was tried on projectors of seed 10.

`Recipe` holds every number that a run depends on; the file is written beside the results, once.
Primary measures (Holm's correction is over these alone, `PRIMARY`):

- after stage 1, no stage 2: `learned`, nats a token that the image takes off the caption's loss,
  and `answers`, the share of questions that two scenes answer differently and that come out right
  (`playground.study.learned`; both on scenes that no training image shows).
- after a short stage 2 with LoRA: `eight`, the mean of the miniature eight in points.

Each is tested for SEA's arms against plain LLaVA of the same LLM, paired by seed (two-sided t).
All else (nearest word, TACS, gap, visual length, MIR, language kept) is shown and not tested.

Limits: one encoder, one world of images; an LLM's recipe is the same for all of its arms.
"""

from __future__ import annotations

from dataclasses import dataclass

PRIMARY = {1: ("learned", "answers"), 2: ("eight",)}
"""Measures that are tested, by stage."""

BETTER = {
    "learned": +1, "answers": +1, "eight": +1, "own": -1, "nearest": +1, "nearest_objects": +1,
    "tacs": +1, "gap": -1, "mir": -1, "length": 0, "language": +1, "tuning_loss": -1,
}  # fmt: skip
"""Of all measures: +1 if more is better, -1 if less is, 0 if neither."""


@dataclass(frozen=True)
class Stage1:
    """How long an LLM's projector is trained, and in which batches."""

    steps: int
    batch: int
    learning_rate: float = 2e-3


@dataclass(frozen=True)
class Stage2:
    """A short instruction tuning with LoRA."""

    steps: int
    batch: int
    learning_rate: float
    projector_learning_rate: float = 1e-3
    lora_r: int = 16
    lora_alpha: int = 32
    exams: tuple[int, ...] = (0,)
    """Seeds; each makes the eight anew, with other scenes of the split. A score is their mean."""


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters; every field is part of a run's identity."""

    split: str = "test"
    """Scenes that are measured: `test`, or `dev` to choose on."""
    num_train: int = 8000
    world_seed: int = 0
    min_count: int = 1
    """Words and phrases that occur less often in the captions are left out of the word list."""
    true_top_n: int = 10
    """True words kept for a patch in the arm of true labels, the most frequent."""
    warmup_ratio: float = 0.03
    max_grad_norm: float = 1.0

    scenes: int = 400
    """Of the exam after stage 1; each also stands for the other image of `others` captions."""
    others: int = 3
    per_kind: int = 120
    """Questions of each of nine kinds at most; of words on signs there are 92: 1,052."""
    aligned_scenes: int = 256
    """Of these TACS, gap, nearest words, lengths; the first `mir_scenes` of MIR too."""
    mir_scenes: int = 100
    exam_batch: int = 8

    max_new_tokens: int = 32
    answer_batch: int = 32

    stage1: tuple[tuple[str, Stage1], ...] = (
        ("smollm2", Stage1(100, 16)),
        ("llm-small", Stage1(100, 32)),
        ("llm-medium", Stage1(100, 32)),
    )
    stage2: tuple[tuple[str, Stage2], ...] = (
        ("smollm2", Stage2(150, 8, 1e-3)),
        ("llm-small", Stage2(6000, 16, 3e-3, exams=(0, 1, 2, 3))),
        ("llm-medium", Stage2(2000, 16, 3e-3, exams=(0, 1, 2, 3))),
    )

    def of(self, llm: str) -> tuple[Stage1, Stage2]:
        """Return an LLM's two stages."""
        return dict(self.stage1)[llm], dict(self.stage2)[llm]


SEEDS = (10, 11, 12, 13, 14)
"""Of the counted runs; on 0-9 things were chosen."""

COUNTED = {1: ("plain", "paper-sign", "best", "warm", "true"), 2: ("plain", "warm")}
"""Arms that are run, by the last stage that they go through."""

LLMS = ("smollm2", "llm-small", "llm-medium")
