"""Scenes: a background, 1-6 things on it and at times a sign, drawn from the vocabulary.

A scene is pure data; pictures (`playground.render`), captions (`playground.captions`) and truths
(`playground.truth`) are functions of it. What is in a scene decides its split, so train, dev and
test contents are disjoint by construction. Limits: boxes never overlap, and a
huge thing is always alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np

from playground.signs import board_width
from playground.vocabulary import (
    BACKGROUND_BY_NAME,
    BACKGROUNDS,
    COLOUR_BY_NAME,
    COLOURS,
    KIND_BY_NAME,
    KINDS,
    SIGN_WORDS,
    SIZE_BY_NAME,
    SIZES,
    Background,
    Colour,
    Kind,
    Size,
)
from playground.world import PATCH_SIDE, PICTURE_SIDE, STEP, Split, split_of

COUNT_WEIGHTS = {1: 3, 2: 4, 3: 4, 4: 3, 5: 2, 6: 2}
"""How often a scene has so many things."""

MAX_THINGS = max(COUNT_WEIGHTS)
MAX_LARGE = {1: 1, 2: 2, 3: 2, 4: 1, 5: 1, 6: 0}
"""How many of a scene's things may be large, so that they always find room."""

SIGN_SHARE = 0.25
HUGE_SHARE = 0.2
"""Shares of scenes with a sign, and of scenes with one thing that is huge (and no sign)."""


@dataclass(frozen=True)
class Thing:
    """One thing: names of its rows in the vocabulary and its box's upper left corner in pixels."""

    kind: str
    colour: str
    size: str
    x: int = 0
    y: int = 0

    @property
    def kind_row(self) -> Kind:
        """The kind's row in the vocabulary."""
        return KIND_BY_NAME[self.kind]

    @property
    def colour_row(self) -> Colour:
        """The colour's row in the vocabulary."""
        return COLOUR_BY_NAME[self.colour]

    @property
    def size_row(self) -> Size:
        """The size's row in the vocabulary."""
        return SIZE_BY_NAME[self.size]

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of the box as (x, y) in pixels."""
        return self.x + self.size_row.side / 2, self.y + self.size_row.side / 2


@dataclass(frozen=True)
class Sign:
    """A board with a word, and its upper left corner in pixels, on the patch grid."""

    word: str
    x: int = 0
    y: int = 0


@dataclass(frozen=True)
class Scene:
    """A background, the things on it, the sign if there is one, and the seed of the noise."""

    background: str
    things: tuple[Thing, ...]
    noise_seed: int = 0
    sign: Sign | None = None

    @property
    def background_row(self) -> Background:
        """The background's row in the vocabulary."""
        return BACKGROUND_BY_NAME[self.background]

    def content(self) -> str:
        """What is in the scene, in one canonical line, regardless of where and in which order."""
        things = sorted(f"{t.size} {t.colour} {t.kind}" for t in self.things)
        sign = f" [{self.sign.word}]" if self.sign else ""
        return f"{self.background}: " + ", ".join(things) + sign

    def split(self) -> Split:
        """The split that the content belongs to."""
        return split_of(self.content())


Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels."""


def _free_places(taken: list[Box], width: int, height: int, step: int) -> list[tuple[int, int]]:
    """Return the corners at which a box of this size meets none of the taken ones."""
    free = np.ones((PICTURE_SIDE - height + 1, PICTURE_SIDE - width + 1), dtype=bool)
    for left, top, right, bottom in taken:
        rows = slice(max(0, top - height + 1), bottom)
        free[rows, max(0, left - width + 1) : right] = False
    corners = np.argwhere(free[::step, ::step]) * step
    return [(x, y) for y, x in corners.tolist()]


def place_all(rng: random.Random, scene: Scene) -> Scene:
    """Give the sign and each thing a free place; boxes never overlap.

    Each, the sign first and then the largest, takes one of the places that are still free,
    uniformly; when none is left all start again, so the result is always complete.
    """
    by_size = sorted(scene.things, key=lambda thing: -thing.size_row.side)
    while True:
        sign = scene.sign
        taken: list[Box] = []
        placed: list[Thing] = []
        if sign is not None:
            width = board_width(sign.word)
            x, y = rng.choice(_free_places([], width, PATCH_SIDE, PATCH_SIDE))
            sign = replace(sign, x=x, y=y)
            taken.append((x, y, x + width, y + PATCH_SIDE))
        for thing in by_size:
            side = thing.size_row.side
            places = _free_places(taken, side, side, STEP)
            if not places:
                break
            x, y = rng.choice(places)
            placed.append(replace(thing, x=x, y=y))
            taken.append((x, y, x + side, y + side))
        if len(placed) == len(by_size):
            return replace(scene, things=tuple(placed), sign=sign)


def draw_things(rng: random.Random, count: int) -> tuple[Thing, ...]:
    """Draw things without places, of sizes that fit into one picture."""
    small, large, huge = SIZES
    things, num_large = [], 0
    for _ in range(count):
        size = small
        if count == 1 and rng.random() < HUGE_SHARE:
            size = huge
        elif num_large < MAX_LARGE[count] and rng.random() < 0.5:
            size, num_large = large, num_large + 1
        things.append(Thing(rng.choice(KINDS).name, rng.choice(COLOURS).name, size.name))
    return tuple(things)


def sample_scene(
    rng: random.Random,
    split: Split,
    num_things: int | None = None,
    *,
    kind: str | None = None,
    colour: str | None = None,
) -> Scene:
    """Draw a scene whose content belongs to a split.

    Args:
        rng: source of all draws; the same state gives the same scene.
        split: "train", "dev" or "test".
        num_things: how many things; drawn from 1 to `MAX_THINGS` when None.
        kind: the first thing's kind; drawn when None.
        colour: the first thing's colour; drawn when None.
    """
    while True:
        (drawn,) = rng.choices(tuple(COUNT_WEIGHTS), tuple(COUNT_WEIGHTS.values()))
        count = num_things if num_things is not None else drawn
        background = rng.choice(BACKGROUNDS).name
        first, *others = draw_things(rng, count)
        first = replace(first, kind=kind or first.kind, colour=colour or first.colour)
        has_sign = first.size != SIZES[-1].name and rng.random() < SIGN_SHARE
        sign = Sign(rng.choice(SIGN_WORDS)) if has_sign else None
        scene = Scene(background, (first, *others), sign=sign)
        if scene.split() == split:
            break
    return place_all(rng, replace(scene, noise_seed=rng.getrandbits(32)))


def change_one(rng: random.Random, scene: Scene) -> Scene:
    """Return a scene of the same split that differs in one attribute: a hard negative."""
    split = scene.split()
    while True:
        index = rng.randrange(len(scene.things))
        thing = scene.things[index]
        what = rng.choice(("kind", "kind", "colour", "colour", "background", "sign"))
        background, sign = scene.background, scene.sign
        if what == "sign":
            if sign is None:
                continue
            same = [word for word in SIGN_WORDS if len(word) == len(sign.word)]
            sign = replace(sign, word=rng.choice(same))
        elif what == "kind":
            thing = replace(thing, kind=rng.choice(KINDS).name)
        elif what == "colour":
            thing = replace(thing, colour=rng.choice(COLOURS).name)
        else:
            background = rng.choice(BACKGROUNDS).name
        things = (*scene.things[:index], thing, *scene.things[index + 1 :])
        changed = Scene(background, things, rng.getrandbits(32), sign)
        if changed.content() != scene.content() and changed.split() == split:
            return changed
