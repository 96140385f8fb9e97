"""A benchmark's score, with the protocol that it was made under.

Two scores may be compared only where their protocols agree, so a score carries its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Score:
    """What a checkpoint reached in a benchmark.

    Attributes:
        benchmark: its key, e.g. "textvqa".
        value: the reported number, 0 to 100.
        metric: what the number is, e.g. "VQA accuracy", "mean F1 of the splits".
        split: the part of the benchmark that was asked, e.g. "val".
        questions: how many questions it is made of.
        missing: how many of them had no answer; each counts as wrong.
        protocol: what else the number depends on, name to value, e.g. ``{"OCR tokens": "yes"}``;
            "prompt" is the form that the questions were asked in, where it is known.
        parts: other numbers, 0 to 100, e.g. by type of question or by split.
        when: the days on which a judge graded, where one did.
        template: the name of the model's conversation template, where it is known. It belongs to
            the model, so that scores with other templates may be compared.
    """

    benchmark: str
    value: float
    metric: str
    split: str
    questions: int
    missing: int
    protocol: dict[str, str] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)
    when: str = ""
    template: str = ""

    def comparable(self, other: Score) -> bool:
        """Say whether a difference between the two values means anything."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in ("benchmark", "metric", "split", "questions", "protocol")
        )

    def describe(self) -> str:
        """Say in a line what the value is and what it depends on; split and model aside."""
        count = f", {self.questions:,} questions" if self.questions else ""  # a server says none
        protocol = "; ".join(f"{name}: {value}" for name, value in self.protocol.items())
        return f"{self.metric}{count}. {protocol}"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}
