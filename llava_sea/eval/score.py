"""A benchmark's score, with the protocol that it was made under, gains, and ``scores.json``.

Two scores may be compared only where their protocols agree, so a score carries its own. The
prompt's form is a part of it, since other prompts are another test. The conversation template is
not: it is the model's own, as its weights are, and models are what is compared.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava_sea.eval.answers import Answer
from llava_sea.files import read_object, write_atomically

LONGEST = 160
"""Characters of an ending that are shown, the last ones; LLaVA's longest, VizWiz's, has 126."""

FLOOR = 5.0
"""Points that a baseline should score for a relative gain: below it a few questions are 100 %."""

_NOT_OURS = "so it is no scores.json of this command; move it away"


@dataclass(frozen=True)
class Score:
    """A checkpoint's result in a benchmark.

    Attributes:
        benchmark: its key, e.g. "textvqa".
        value: the reported number, 0 to 100.
        metric: the kind of number, e.g. "VQA accuracy", "mean F1 of the splits".
        split: the part of the benchmark that was asked, e.g. "val".
        questions: how many questions it is made of; 0 where a server does not say.
        missing: how many of them had no answer; each counts as wrong.
        protocol: what else the number depends on, e.g. ``{"OCR tokens": "yes"}``.
        parts: other numbers, 0 to 100, e.g. by type of question or by split.
        when: the days on which a judge graded, where one did.
        template: the model's conversation template, where it is known.
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
        count = f", {self.questions:,} questions" if self.questions else ""
        protocol = "; ".join(f"{name}: {value}" for name, value in self.protocol.items())
        return f"{self.metric}{count}. {protocol}"


@dataclass(frozen=True)
class Submission:
    """A file, and the server that scores it."""

    path: Path
    server: str


Outcome = Score | Submission


def with_prompt(score: Score, answers: Sequence[Answer], template: str = "") -> Score:
    """Return a score of answers that says how they were asked; template "" is not known."""
    protocol = {"prompt": prompt_form(answers), **score.protocol}
    return dataclasses.replace(score, protocol=protocol, template=template)


def prompt_form(answers: Sequence[Answer]) -> str:
    r"""Return the lines that end more than half of the prompts, and a hash of all prompts.

    The ending is what a benchmark adds to its questions, e.g. "Answer the question using a single
    word or phrase."; its lines are joined by blanks. The hash, 8 digits of a SHA-256 of the
    different prompts in order, tells apart what differs elsewhere or is not shown.
    """
    prompts = [answer.prompt.strip() for answer in answers if answer.prompt.strip()]
    if not prompts:
        return "not known, no answer repeats it"
    texts = json.dumps(sorted(set(prompts))).encode()
    digest = f"(all texts: {hashlib.sha256(texts).hexdigest()[:8]})"
    ending, count = _ending(prompts)
    if not ending:
        return f"the questions have no ending in common {digest}"
    shown = ending if len(ending) <= LONGEST else f"...{ending[3 - LONGEST :]}"
    all_end = count == len(answers)
    whose = "each question ends" if all_end else f"{count} of {len(answers)} questions end"
    return f'{whose} "{shown}" {digest}'


def _ending(prompts: Sequence[str]) -> tuple[str, int]:
    """Return the longest ending that as many prompts share as share its last line, and how many."""
    split = [tuple(line.strip() for line in prompt.split("\n")) for prompt in prompts]
    ending: tuple[str, ...] = ()
    sharing = 0
    for length in range(1, max(map(len, split)) + 1):
        tails = Counter(lines[-length:] for lines in split if len(lines) >= length)
        tail, count = tails.most_common(1)[0]
        if count < sharing or 2 * count <= len(prompts):
            break
        ending, sharing = tail, count
    return " ".join(ending), sharing


def relative_gain(value: float, baseline: float) -> float | None:
    """Return by how many percent a value is above the baseline's; None over a baseline of 0.

    The paper's 7.61 % is the mean of Gemma-2B's eight relative gains (arXiv 2408.11813, table 2).
    """
    return 100.0 * (value / baseline - 1.0) if baseline else None


def gains(scores: Mapping[str, Score], baseline: Mapping[str, Score]) -> dict[str, float]:
    """Return the relative gain, in percent, of each task whose two scores may be compared."""
    both = {name: (score, baseline[name]) for name, score in scores.items() if name in baseline}
    found = {
        name: relative_gain(score.value, other.value)
        for name, (score, other) in both.items()
        if score.comparable(other)
    }
    return {name: gain for name, gain in found.items() if gain is not None}


def read_scores(folder: Path) -> dict[str, Any]:
    """Return the entries of a folder's ``scores.json`` by task; none where there is no file."""
    path = folder / "scores.json"
    return read_object(path, _NOT_OURS) if path.exists() else {}


def add_score(folder: Path, task: str, outcome: Outcome) -> None:
    """Note a task's outcome in ``scores.json``; those of other tasks stay."""
    if isinstance(outcome, Score):
        entry = dataclasses.asdict(outcome)
    else:
        entry = {"submission": str(outcome.path), "server": outcome.server}
    content = json.dumps(read_scores(folder) | {task: entry}, indent=2) + "\n"
    write_atomically(folder / "scores.json", content.encode())
