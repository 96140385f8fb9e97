"""Questions with two to four options, one of them right.

Wrong options are values of the same sort; those that the scene shows elsewhere come first, so that
knowing what is in the picture is not enough. Limits: questions of `playground.questions` and the
side on which one thing stands from another.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from playground.benchmarks.annotators import domain_of
from playground.benchmarks.composed import compose
from playground.benchmarks.prompts import LETTERS
from playground.questions import QUESTION_KINDS, ask
from playground.scene import Scene

SIDE = "which side"
CHOICE_KINDS = (*QUESTION_KINDS, SIDE)


@dataclass(frozen=True)
class Choice:
    """A question with options.

    Attributes:
        kind: of `CHOICE_KINDS`.
        question: without the options.
        options: two to four.
        answer: index of the right one.
    """

    kind: str
    question: str
    options: tuple[str, ...]
    answer: int

    @property
    def letter(self) -> str:
        """The right option's letter."""
        return LETTERS[self.answer]


def _wrong_options(rng: random.Random, scene: Scene, answer: str) -> list[str]:
    """Return the other values of the answer's sort, those that the scene shows first."""
    shown = {thing.kind for thing in scene.things} | {thing.colour for thing in scene.things}
    wrong = [value for value in domain_of(answer) if value != answer]
    rng.shuffle(wrong)
    return sorted(wrong, key=lambda value: value not in shown)


def choose(rng: random.Random, scene: Scene, kind: str) -> Choice | None:
    """Ask a question of a kind with options; None when the scene has none with one answer."""
    asked = compose(rng, scene, kind) if kind == SIDE else ask(rng, scene, kind)
    if asked is None:
        return None
    wrong = _wrong_options(rng, scene, asked.answer)[: rng.choice((1, 2, 3, 3))]
    options = [asked.answer, *wrong]
    rng.shuffle(options)
    return Choice(kind, asked.text, tuple(options), options.index(asked.answer))


def hint_for(rng: random.Random, scene: Scene, choice: Choice) -> str:
    """Return a true line to read before the question, at times; it never gives the answer."""
    if choice.kind == "background" or rng.random() < 0.7:
        return ""
    return f"the background is {scene.background}."
