"""The arms: plain LLaVA, and SEA with several kinds of labels and of training.

An arm is a preset of the package, at times with some flags changed; the study follows the presets
(`llava_sea.presets`). `warm` is `best` as `scripts/pretrain_sea.sh` runs it, with its warm start;
the arms `best` and `true` have none; that of true labels is the upper bound of the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llava_sea.presets import LABEL_PRESETS, TRAINING_PRESETS
from llava_sea.train.arguments import SeaArguments


@dataclass(frozen=True)
class Arm:
    """One way to do stage 1."""

    name: str
    title: str
    preset: str | None = None
    """Key of the presets; None trains without SEA."""
    labels: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Flags of the extraction that win over the preset's."""
    flags: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Flags of training that win over the preset's."""
    truth: bool = False
    """True labels instead of mined ones."""
    warm_start: float = 0.0
    """Share of stage 1's steps that the alignment loss trains alone before it, without the LLM."""

    def extraction(self) -> dict[str, Any]:
        """Return the flags that its labels are mined with; none without labels."""
        return LABEL_PRESETS[self.preset] | dict(self.labels) if self.preset else {}

    def labels_folder(self) -> str | None:
        """Name the folder of its labels after the flags; arms with the same labels share it."""
        if self.preset is None:
            return None
        if self.truth:
            return "labels-true"
        return "-".join(["labels", *(str(value) for value in self.extraction().values())])

    def arguments(self, labels: str | None) -> SeaArguments:
        """Return the package's alignment flags for a run on these labels."""
        training = TRAINING_PRESETS[self.preset] if self.preset else {}
        return SeaArguments(sea_labels=labels, **(training | dict(self.flags)))


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("plain", "plain LLaVA"),
        Arm("paper", "SEA, as printed", "paper"),
        Arm("paper-sign", "SEA, as printed, sign measured", "paper", {"sea_sign": "auto"}),
        Arm("best", "SEA, `best`, no warm start", "best"),
        Arm("warm", "SEA, `best`", "best", warm_start=1.0),
        Arm("true", "SEA, true labels, no warm start", "best", truth=True),
    )
}
"""In the order of the tables."""

BASELINE = "plain"
