"""Questions that join attributes and relations, as GQA's do.

A thing stands left of, right of, above or below another if its middle is so by `MARGIN` pixels at
least; where a thing stands closer than that, the question is not asked. Yes-no questions have each
answer half of the time, and what is not there differs from what is in one word.
Limits: first names only; a question is None where the scene has none with one answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from playground.captions import with_article
from playground.questions import Question, unique
from playground.scene import Scene, Thing
from playground.vocabulary import COLOURS, KINDS

MARGIN = 8
"""Pixels between two middles, on the axis that counts; one patch."""

DIRECTIONS = {
    "to the left of": (0, 1),
    "to the right of": (0, -1),
    "above": (1, 1),
    "below": (1, -1),
}
"""Axis (0: x, 1: y) and the sign of the way from the one to the other."""


def stands(one: Thing, direction: str, other: Thing) -> bool | None:
    """Say whether a thing stands in a direction from another; None if it is too close to tell."""
    axis, sign = DIRECTIONS[direction]
    way = (other.centre[axis] - one.centre[axis]) * sign
    return None if abs(way) < MARGIN else way > 0


def _anchored(scene: Scene) -> list[tuple[str, Thing, list[Thing]]]:
    """Return direction, the only thing of its kind, and all that stand so, where all is clear."""
    found = []
    for direction in DIRECTIONS:
        for anchor in unique(scene, "kind"):
            others = [thing for thing in scene.things if thing is not anchor]
            sides = [stands(thing, direction, anchor) for thing in others]
            if None not in sides:
                there = [thing for thing, side in zip(others, sides, strict=True) if side]
                found.append((direction, anchor, there))
    return found


def _colour_beside(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    asked = []
    for direction, anchor, things in _anchored(scene):
        kinds = [thing.kind for thing in things]
        for thing in things:
            if kinds.count(thing.kind) == 1:
                text = f"what colour is the {thing.kind} {direction} the {anchor.kind}?"
                asked.append((text, thing.colour))
    return rng.choice(asked) if asked else None


def _thing_beside(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    asked = [
        (f"what is {direction} the {anchor.kind}?", things[0].kind)
        for direction, anchor, things in _anchored(scene)
        if len(things) == 1
    ]
    return rng.choice(asked) if asked else None


def _pairs(scene: Scene) -> list[tuple[Thing, str, Thing, bool]]:
    """Return two things, each the only one of its kind, a direction, and whether it is right."""
    things = unique(scene, "kind")
    found = []
    for one in things:
        for other in things:
            for direction in DIRECTIONS if one is not other else ():
                side = stands(one, direction, other)
                if side is not None:
                    found.append((one, direction, other, side))
    return found


def _is_beside(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    wanted = rng.random() < 0.5
    pairs = [pair for pair in _pairs(scene) if pair[3] == wanted]
    if not pairs:
        return None
    one, direction, other, _ = rng.choice(pairs)
    return f"is the {one.kind} {direction} the {other.kind}?", "yes" if wanted else "no"


def _which_side(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    pairs = [pair for pair in _pairs(scene) if pair[3]]
    if not pairs:
        return None
    one, direction, other, _ = rng.choice(pairs)
    across = DIRECTIONS[direction][0] == 0
    sides = "to the left or to the right of" if across else "above or below"
    answer = direction.split()[2] if across else direction
    return f"is the {one.kind} {sides} the {other.kind}?", answer


def _which_colour(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    things = unique(scene, "kind")
    if not things:
        return None
    thing = rng.choice(things)
    near = sorted({other.colour for other in scene.things} - {thing.colour})
    far = [row.name for row in COLOURS if row.name != thing.colour]
    wrong = rng.choice(near if near and rng.random() < 0.7 else far)
    one, other = rng.sample((thing.colour, wrong), 2)
    return f"is the {thing.kind} {one} or {other}?", thing.colour


def _both(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    kinds = sorted({thing.kind for thing in scene.things})
    if len(kinds) < 2:
        return None
    one, other = rng.sample(kinds, 2)
    there = rng.random() < 0.5
    if not there:
        absent = rng.choice([row.name for row in KINDS if row.name not in kinds])
        one, other = rng.sample((one, absent), 2)
    return f"is there {with_article(one)} and {with_article(other)}?", "yes" if there else "no"


def _both_coloured(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    pairs = sorted({(thing.colour, thing.kind) for thing in scene.things})
    if len(pairs) < 2:
        return None
    (colour, kind), other = rng.sample(pairs, 2)
    there = rng.random() < 0.5
    if not there:
        colour = rng.choice([row.name for row in COLOURS if (row.name, kind) not in pairs])
    first, second = rng.sample((f"{colour} {kind}", " ".join(other)), 2)
    text = f"is there {with_article(first)} and {with_article(second)}?"
    return text, "yes" if there else "no"


COMPOSERS: dict[str, Callable[[random.Random, Scene], tuple[str, str] | None]] = {
    "colour of a thing beside another": _colour_beside,
    "thing beside another": _thing_beside,
    "is it beside": _is_beside,
    "which side": _which_side,
    "which of two colours": _which_colour,
    "both kinds": _both,
    "both pairs": _both_coloured,
}
COMPOSED_KINDS = tuple(COMPOSERS)


def compose(rng: random.Random, scene: Scene, kind: str) -> Question | None:
    """Ask a question of a kind of `COMPOSED_KINDS`; None when the scene has none."""
    asked = COMPOSERS[kind](rng, scene)
    return Question(kind, *asked) if asked else None
