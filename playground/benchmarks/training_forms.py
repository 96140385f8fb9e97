"""Conversation turns from training scenes in the forms that the benchmarks use.

The instruction data ask plain questions; letters, 'Unanswerable', OCR tokens, relations and
two-part answers are new to a model that has only met those. Each form makes turns from a scene that
the caller draws (of the training split), in the wording of the benchmark's prompts. Limits: nothing
here draws a scene, so nothing of a test scene can leak. Nothing here needs
`playground.instructions`, which may thus use it.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from playground.benchmarks.absent import ABSENT_KINDS, ask_absent
from playground.benchmarks.choices import CHOICE_KINDS, choose, hint_for
from playground.benchmarks.composed import COMPOSED_KINDS, compose
from playground.benchmarks.open_questions import OPEN_KINDS, ask_open
from playground.benchmarks.prompts import LETTER, SHORT_ANSWER, UNANSWERABLE, with_options
from playground.benchmarks.told import context_line, tell_for
from playground.benchmarks.written import ask_written, read_tokens, token_line
from playground.questions import QUESTION_KINDS
from playground.scene import Scene

Turns = list[tuple[str, str]]
"""Pairs of what the human says and what the model answers."""


def _short(rng: random.Random, question: str) -> str:
    """Ask for a short answer, most of the time."""
    return f"{question}\n{SHORT_ANSWER}" if rng.random() < 0.7 else question


def composed_turns(rng: random.Random, scene: Scene) -> Turns:
    """Ask a composed question, as GQA does."""
    question = compose(rng, scene, rng.choice(COMPOSED_KINDS))
    return [(_short(rng, question.text), question.answer)] if question else []


def choice_turns(rng: random.Random, scene: Scene) -> Turns:
    """Ask for a letter, as MMBench and ScienceQA do, at times after a line of context."""
    choice = choose(rng, scene, rng.choice(CHOICE_KINDS))
    if choice is None:
        return []
    hint = hint_for(rng, scene, choice)
    hint = context_line(hint) if rng.random() < 0.5 else hint
    text = with_options(choice.question, choice.options, hint)
    return [(f"{text}\n{LETTER}", choice.letter)]


def told_choice_turns(rng: random.Random, scene: Scene) -> Turns:
    """Ask for a letter about a scene told in words, as ScienceQA does where it has no picture.

    For records without a picture.
    """
    choice = choose(rng, scene, rng.choice(QUESTION_KINDS))
    if choice is None:
        return []
    told = context_line(tell_for(rng, scene, choice.kind))
    return [(f"{with_options(choice.question, choice.options, told)}\n{LETTER}", choice.letter)]


def absent_turns(rng: random.Random, scene: Scene) -> Turns:
    """Ask what the picture may not tell, as VizWiz does; half of the time it does not."""
    question = ask_absent(rng, scene, rng.choice(ABSENT_KINDS), answerable=rng.random() < 0.5)
    if question is None:
        return []
    return [(f"{question.text}\n{UNANSWERABLE}\n{SHORT_ANSWER}", question.answer)]


def written_turns(rng: random.Random, scene: Scene) -> Turns:
    """Ask for the word on the sign, as TextVQA does, with OCR tokens half of the time."""
    asked = ask_written(rng, scene)
    if not asked:
        return []
    tokens = f"{token_line(read_tokens(rng, scene))}\n" if rng.random() < 0.5 else ""
    return [(f"{asked[0].text}\n{tokens}{SHORT_ANSWER}", asked[0].answer)]


def open_turns(rng: random.Random, scene: Scene) -> Turns:
    """Ask an open question, as MM-Vet does; captions the instruction data have already."""
    kinds = [kind for kind in OPEN_KINDS if kind != "caption"]
    question = ask_open(rng, scene, rng.choice(kinds))
    return [(question.text, question.plain)] if question else []


FORMS: dict[str, Callable[[random.Random, Scene], Turns]] = {
    "composed": composed_turns,
    "choice": choice_turns,
    "absent": absent_turns,
    "written": written_turns,
    "open": open_turns,
}
"""Forms about a picture; each gives one turn, or none where the scene has no such question."""

SHARES = {"composed": 4, "choice": 4, "absent": 2, "written": 1, "open": 1}


def training_turns(rng: random.Random, scene: Scene, count: int = 1) -> Turns:
    """Make turns about one picture in the benchmarks' forms.

    Args:
        rng: source of all draws.
        scene: a training scene.
        count: how many turns; forms are drawn by `SHARES`, no question twice.

    Returns:
        `count` pairs of question and answer, without the picture's placeholder; fewer where the
        scene does not have as many.
    """
    turns: dict[str, str] = {}
    for _ in range(20 * count):
        if len(turns) == count:
            break
        (form,) = rng.choices(tuple(SHARES), tuple(SHARES.values()))
        turns.update(FORMS[form](rng, scene))
    return list(turns.items())
