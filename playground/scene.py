"""Scenes: a background and 1-4 things on it, drawn at random from the vocabulary.

A scene is pure data; pictures (`playground.render`), captions (`playground.captions`) and truths
(`playground.truth`) are functions of it. What is in a scene decides its split, so train, dev and
test contents are disjoint by construction. Limits: the boxes of things never overlap.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np

from playground.vocabulary import (
    BACKGROUND_BY_NAME,
    BACKGROUNDS,
    COLOUR_BY_NAME,
    COLOURS,
    KIND_BY_NAME,
    KINDS,
    SIZE_BY_NAME,
    SIZES,
    Background,
    Colour,
    Kind,
    Size,
)
from playground.world import PICTURE_SIDE, STEP, Split, split_of

MAX_THINGS = 4


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
class Scene:
    """A background, the things on it, and the seed of the pixels' noise."""

    background: str
    things: tuple[Thing, ...]
    noise_seed: int = 0

    @property
    def background_row(self) -> Background:
        """The background's row in the vocabulary."""
        return BACKGROUND_BY_NAME[self.background]

    def content(self) -> str:
        """What is in the scene, in one canonical line, regardless of where and in which order."""
        things = sorted(f"{t.size} {t.colour} {t.kind}" for t in self.things)
        return f"{self.background}: " + ", ".join(things)

    def split(self) -> Split:
        """The split that the content belongs to."""
        return split_of(self.content())


def place_things(rng: random.Random, things: tuple[Thing, ...]) -> tuple[Thing, ...]:
    """Give each thing a free place; boxes never overlap.

    Each thing, the largest first, takes one of the positions that are still free, uniformly; when
    none is left all start again, so the result is always complete.
    """
    by_size = sorted(things, key=lambda thing: -thing.size_row.side)
    while True:
        placed: list[Thing] = []
        for thing in by_size:
            side = thing.size_row.side
            span = PICTURE_SIDE - side + 1
            free = np.ones((span, span), dtype=bool)
            for other in placed:
                left, top = max(0, other.x - side + 1), max(0, other.y - side + 1)
                end = other.size_row.side
                free[top : other.y + end, left : other.x + end] = False
            rows, columns = np.nonzero(free[::STEP, ::STEP])
            if len(rows) == 0:
                break
            spot = rng.randrange(len(rows))
            x, y = STEP * int(columns[spot]), STEP * int(rows[spot])
            placed.append(replace(thing, x=x, y=y))
        if len(placed) == len(things):
            return tuple(placed)


def draw_thing(rng: random.Random) -> Thing:
    """Draw a thing without a place."""
    kind, colour, size = rng.choice(KINDS), rng.choice(COLOURS), rng.choice(SIZES)
    return Thing(kind.name, colour.name, size.name)


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
        count = num_things if num_things is not None else rng.randint(1, MAX_THINGS)
        background = rng.choice(BACKGROUNDS).name
        first, *others = (draw_thing(rng) for _ in range(count))
        first = replace(first, kind=kind or first.kind, colour=colour or first.colour)
        scene = Scene(background, (first, *others))
        if scene.split() == split:
            break
    things = place_things(rng, scene.things)
    return Scene(background, things, noise_seed=rng.getrandbits(32))


def change_one(rng: random.Random, scene: Scene) -> Scene:
    """Return a scene of the same split that differs in one attribute: a hard negative."""
    split = scene.split()
    while True:
        index = rng.randrange(len(scene.things))
        thing = scene.things[index]
        what = rng.choice(("kind", "kind", "kind", "colour", "background"))
        background = scene.background
        if what == "kind":
            thing = replace(thing, kind=rng.choice(KINDS).name)
        elif what == "colour":
            thing = replace(thing, colour=rng.choice(COLOURS).name)
        else:
            background = rng.choice(BACKGROUNDS).name
        things = (*scene.things[:index], thing, *scene.things[index + 1 :])
        changed = Scene(background, things, noise_seed=rng.getrandbits(32))
        if changed.content() != scene.content() and changed.split() == split:
            return changed
