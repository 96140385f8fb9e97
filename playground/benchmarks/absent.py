"""Questions of which some cannot be answered from the picture, as VizWiz has them.

They ask for the colour or the place of a thing, or what the sign says; it may not be there.
Answerable or not, the questions read alike. Limits: no blurred pictures.
"""

from __future__ import annotations

import random

from playground.questions import Question, ask
from playground.scene import Scene
from playground.vocabulary import KINDS

NO_ANSWER = "Unanswerable"
"""What the prompt tells the model to say."""

ABSENT_KINDS = ("colour of a noun", "place", "written word")


def ask_absent(rng: random.Random, scene: Scene, kind: str, *, answerable: bool) -> Question | None:
    """Ask a question that the scene answers, or one that it does not.

    Args:
        rng: source of all draws.
        scene: what is asked about.
        kind: of `ABSENT_KINDS`.
        answerable: which of the two.

    Returns:
        The question, with `NO_ANSWER` where there is none, or None when the scene has no such
        question.
    """
    if answerable:
        return ask(rng, scene, kind)
    if kind == "written word":
        return None if scene.sign else Question(kind, "what does the sign say?", NO_ANSWER)
    there = {thing.kind for thing in scene.things}
    name = rng.choice([row.name for row in KINDS if row.name not in there])
    text = f"what colour is the {name}?" if kind == "colour of a noun" else f"where is the {name}?"
    return Question(kind, text, NO_ANSWER)
