"""Open questions with the capabilities that they need, as MM-Vet has them.

Capabilities: rec (recognition), ocr (written words), spat (places), math (counting, sums), gen (a
caption). A ground truth joins parts that must all be said with ``<AND>``, or words of which one is
enough with ``<OR>``, never both, since MM-Vet gives no precedence. Limits: none needs knowledge
from outside the picture ("know"), since the miniature models have none.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from playground.benchmarks.annotators import synonyms_of
from playground.benchmarks.composed import compose
from playground.questions import NUMBER_WORDS, ask
from playground.scene import Scene
from playground.vocabulary import KIND_BY_NAME

AND, OR = "<AND>", "<OR>"


@dataclass(frozen=True)
class OpenQuestion:
    """A question, its ground truth and the capabilities that it needs."""

    kind: str
    text: str
    truth: str
    capabilities: tuple[str, ...]

    @property
    def plain(self) -> str:
        """A right answer: every part, or the first of several words."""
        return plain_answer(self.truth)


def plain_answer(truth: str) -> str:
    """Return a right answer for a ground truth."""
    return " and ".join(truth.split(AND)) if AND in truth else truth.split(OR)[0]


def _with_synonyms(answer: str) -> str:
    return OR.join((answer, *synonyms_of(answer)))


Asked = tuple[str, str] | None


def _simple(kind: str) -> Callable[[random.Random, Scene], Asked]:
    def asked(rng: random.Random, scene: Scene) -> Asked:
        question = ask(rng, scene, kind)
        return (question.text, _with_synonyms(question.answer)) if question else None

    return asked


def _beside(rng: random.Random, scene: Scene) -> Asked:
    question = compose(rng, scene, "thing beside another")
    return (question.text, _with_synonyms(question.answer)) if question else None


def _number(rng: random.Random, scene: Scene) -> Asked:
    number = len(scene.things)
    return "how many things are there?", f"{NUMBER_WORDS[number]}{OR}{number}"


def _sum(rng: random.Random, scene: Scene) -> Asked:
    kinds = sorted({thing.kind for thing in scene.things})
    if len(kinds) < 2:
        return None
    one, other = rng.sample(kinds, 2)
    number = sum(thing.kind in (one, other) for thing in scene.things)
    names = [KIND_BY_NAME[kind].plurals[0] for kind in (one, other)]
    truth = f"{NUMBER_WORDS[number]}{OR}{number}"
    return f"how many {names[0]} and {names[1]} are there?", truth


def _sign_and_background(rng: random.Random, scene: Scene) -> Asked:
    if scene.sign is None:
        return None
    text = "what does the sign say and what is the background?"
    return text, f"{scene.sign.word}{AND}{scene.background}"


def _caption(rng: random.Random, scene: Scene) -> Asked:
    from playground.instructions import INSTRUCTIONS  # may itself use this module

    if len(scene.things) > 3:
        return None
    named = list(dict.fromkeys(f"{thing.colour} {thing.kind}" for thing in scene.things))
    signs = [scene.sign.word] if scene.sign else []
    return rng.choice(INSTRUCTIONS), AND.join([*named, *signs])


OPEN_ASKERS: dict[str, tuple[tuple[str, ...], Callable[[random.Random, Scene], Asked]]] = {
    "noun of a colour": (("rec",), _simple("noun of a colour")),
    "colour of a noun": (("rec",), _simple("colour of a noun")),
    "background": (("rec",), _simple("background")),
    "written word": (("ocr",), _simple("written word")),
    "place": (("rec", "spat"), _simple("place")),
    "thing beside another": (("rec", "spat"), _beside),
    "counting": (("rec", "math"), _number),
    "sum": (("rec", "math"), _sum),
    "sign and background": (("rec", "ocr"), _sign_and_background),
    "caption": (("rec", "gen"), _caption),
}
OPEN_KINDS = tuple(OPEN_ASKERS)


def ask_open(rng: random.Random, scene: Scene, kind: str) -> OpenQuestion | None:
    """Ask an open question of a kind of `OPEN_KINDS`; None when the scene has none."""
    capabilities, asker = OPEN_ASKERS[kind]
    asked = asker(rng, scene)
    if asked is None:
        return None
    tags = capabilities
    if kind == "caption" and scene.sign:
        tags = (*capabilities, "ocr")
    return OpenQuestion(kind, asked[0], asked[1], tags)
