"""The arms: plain LLaVA, and SEA with four kinds of labels.

An arm is a preset of the package, at times with one flag changed; what it mines and how it trains
is read from `llava_sea.presets`, so the study follows the presets. The upper bound trains as `best`
does, on labels that are true. `playground.claims.ablations` has arms with more that is changed.
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
    sign: str | None = None
    """Wins over the preset's sign."""
    truth: bool = False
    """True labels instead of mined ones."""
    top_n: int | None = None
    """Labels mined for a patch; wins over the preset's."""
    flags: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Flags of training that win over the preset's."""
    warm_start: int = 0
    """Steps of the alignment loss alone before stage 1 (`playground.study.run.warm_start`)."""

    def extraction(self) -> dict[str, Any]:
        """Return the flags that its labels are mined with; none without labels."""
        if self.preset is None:
            return {}
        own = {"sea_sign": self.sign, "sea_top_n": self.top_n}
        return LABEL_PRESETS[self.preset] | {k: v for k, v in own.items() if v is not None}

    def training(self) -> dict[str, Any]:
        """Return its flags of training; what neither it nor its preset says keeps its default."""
        return (TRAINING_PRESETS[self.preset] if self.preset else {}) | dict(self.flags)

    def labels_folder(self) -> str | None:
        """Name the folder of its labels after the flags; arms with the same labels share it."""
        if self.preset is None:
            return None
        if self.truth:
            return "labels-true"
        return "-".join(["labels", *(str(value) for value in self.extraction().values())])

    def arguments(self, labels: str | None) -> SeaArguments:
        """Return the package's alignment flags for a run on these labels."""
        return SeaArguments(sea_labels=labels, **self.training())


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("plain", "plain LLaVA"),
        Arm("sea-paper", "SEA, as printed", "paper"),
        Arm("sea-paper-sign", "SEA, as printed, sign measured", "paper", sign="auto"),
        Arm("sea-best", "SEA, `best`", "best"),
        Arm("sea-true", "SEA, true labels", "best", truth=True),
    )
}
"""In the order of the tables."""
