"""Questions about a scene, with answers that its content decides: in words or in pictures alike.

Each kind has balanced answers: half of the yes-no questions are answered "yes", and a "no" is
hard: the colour is there, or the kind is, but not together. A question is asked only where it has
one answer. The same questions test the LLMs on scenes told in words (`playground.evaluate`) and a
projector on pictures (`playground.study`). Limits: first names of kinds, colours and backgrounds.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from playground.captions import with_article
from playground.distractors import NOUNS
from playground.scene import Scene, Thing, sample_scene
from playground.vocabulary import COLOURS, KINDS
from playground.world import PICTURE_SIDE, Split

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six")


@dataclass(frozen=True)
class Question:
    """A question of a kind (a key of `ASKERS`) and its answer."""

    kind: str
    text: str
    answer: str


def prompt_of(text: str) -> str:
    """Return what stands between what is known and the answer."""
    return f"\nUSER: {text} ASSISTANT:"


def unique(scene: Scene, attribute: str) -> list[Thing]:
    """Return the things that share their attribute ("kind" or "colour") with no other."""
    values = [getattr(thing, attribute) for thing in scene.things]
    return [t for t in scene.things if values.count(getattr(t, attribute)) == 1]


def region_of(thing: Thing) -> str:
    """Name the part of the picture where a thing stands, e.g. "top left"."""
    x, y = (value / PICTURE_SIDE for value in thing.centre)
    vertical = "top" if y < 0.5 else "bottom"
    return f"{vertical} {'left' if x < 0.5 else 'right'}"


def _noun(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    kinds = {thing.kind for thing in scene.things}
    if rng.random() < 0.5:
        return f"is there {with_article(rng.choice(sorted(kinds)))}?", "yes"
    absent = [row.name for row in KINDS if row.name not in kinds]
    name = rng.choice(NOUNS) if rng.random() < 0.15 else rng.choice(absent)
    return f"is there {with_article(name)}?", "no"


def _colour(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    colours = {thing.colour for thing in scene.things}
    there = rng.random() < 0.5
    names = [row.name for row in COLOURS if (row.name in colours) == there]
    return f"is anything {rng.choice(names)}?", "yes" if there else "no"


def _pair(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    pairs = sorted({(thing.colour, thing.kind) for thing in scene.things})
    if rng.random() < 0.5:
        return f"is there {with_article(' '.join(rng.choice(pairs)))}?", "yes"
    colours, kinds = {c for c, _ in pairs}, {k for _, k in pairs}
    swaps = [(c, k) for c in sorted(colours) for k in sorted(kinds) if (c, k) not in pairs]
    if swaps and rng.random() < 0.5:
        colour, kind = rng.choice(swaps)
    elif rng.random() < 0.5:
        kind = rng.choice(sorted(kinds))
        colour = rng.choice([row.name for row in COLOURS if (row.name, kind) not in pairs])
    else:
        colour = rng.choice(sorted(colours))
        kind = rng.choice([row.name for row in KINDS if (colour, row.name) not in pairs])
    return f"is there {with_article(f'{colour} {kind}')}?", "no"


def _colour_of(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    things = unique(scene, "kind")
    if not things:
        return None
    thing = rng.choice(things)
    return f"what colour is the {thing.kind}?", thing.colour


def _kind_of(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    things = unique(scene, "colour")
    if not things:
        return None
    thing = rng.choice(things)
    return f"what is the {thing.colour} thing?", thing.kind


def _written(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    return ("what does the sign say?", scene.sign.word) if scene.sign else None


def _background(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    return "what is the background?", scene.background


def _count(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    return "how many things are there?", NUMBER_WORDS[len(scene.things)]


def _where(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    things = [t for t in unique(scene, "kind") if t.size_row.side < PICTURE_SIDE / 2]
    if not things:
        return None
    thing = rng.choice(things)
    return f"where is the {thing.kind}?", region_of(thing)


Asker = Callable[[random.Random, Scene], tuple[str, str] | None]

ASKERS: dict[str, Asker] = {
    "existence of a noun": _noun,
    "existence of a colour": _colour,
    "existence of a pair": _pair,
    "colour of a noun": _colour_of,
    "noun of a colour": _kind_of,
    "written word": _written,
    "background": _background,
    "counting": _count,
    "place": _where,
}

QUESTION_KINDS = tuple(ASKERS)
YES_NO_KINDS = QUESTION_KINDS[:3]


def ask(rng: random.Random, scene: Scene, kind: str) -> Question | None:
    """Ask a question of a kind; None when the scene has no such question with one answer."""
    asked = ASKERS[kind](rng, scene)
    return Question(kind, *asked) if asked else None


def test_questions(split: Split = "test", per_kind: int = 200) -> list[tuple[Scene, Question]]:
    """Return a fixed list of scenes of a split with a question each, `per_kind` of every kind."""
    asked = []
    for kind in QUESTION_KINDS:
        rng = random.Random(f"questions/{split}/{kind}")
        found = 0
        while found < per_kind:
            scene = sample_scene(rng, split)
            question = ask(rng, scene, kind)
            if question:
                asked.append((scene, question))
                found += 1
    return asked


test_questions.__test__ = False  # type: ignore[attr-defined]  # pytest would collect it
