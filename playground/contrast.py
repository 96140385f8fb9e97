"""Batches for the contrastive training of the CLIP: pictures, texts, and which texts fit which.

A batch is made of families: a scene with one thing or a full one, and its twins that differ from it
in one attribute, the hard negatives. Early batches hold single things of all kinds and colours
instead: as long as colour and background tell the pictures apart, kinds are not learned. A text is
a full caption, a phrase ("red ball"), a named background or a sign. Since the world knows what each
text claims, pairs off the diagonal that happen to be true are told apart and are no negatives. Some
more texts fit no picture at all (`playground.distractors`).
"""

# Shape letters: B pairs in a batch.

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from playground.captions import (
    OPENINGS,
    Caption,
    Claims,
    Mention,
    noun_phrase,
    pick_name,
    place_of,
    sign_phrase,
    with_article,
    write_caption,
)
from playground.distractors import distractors
from playground.render import render_scene
from playground.scene import Scene, change_one, sample_scene
from playground.vocabulary import BACKGROUNDS, COLOURS, KINDS
from playground.world import Split

TWINS = 3
"""Hard negatives per scene."""

COLOUR_SHARE = 0.12
"""Share of short texts that name a colour alone."""

DISTRACTORS = distractors()
NUM_DISTRACTORS = 16
"""Texts per batch that fit no picture."""


@dataclass(frozen=True)
class ContrastBatch:
    """Pictures ``pixels_BHHC`` (uint8), their texts, texts that fit none, and which fit which.

    ``fits_BB``: the column's text is true of the row's picture.
    """

    pixels_BHHC: NDArray[np.uint8]
    texts: list[str]
    wrong_texts: list[str]
    fits_BB: NDArray[np.bool_]


def write_short(rng: random.Random, scene: Scene, ground: float = 0.15) -> Caption:
    """Write a word, a phrase or a short sentence about one thing or about the background.

    Args:
        rng: source of all choices.
        scene: what to write about.
        ground: share of texts that name the background alone, if there is no sign; where there is
            one, half as many name the sign alone and half the background.
    """
    opening = f"{rng.choice(OPENINGS)} " if rng.random() < 0.3 else ""
    choice = rng.random()
    if scene.sign and choice < ground / 2:
        word = scene.sign.word
        phrase = word if rng.random() < 0.3 else sign_phrase(rng, word)
        return Caption(f"{opening}{phrase}", Claims(sign=word))
    if choice < ground:
        noun = pick_name(rng, scene.background_row.nouns)
        return Caption(f"{opening}{noun}", Claims((), scene.background))
    thing = rng.choice(scene.things)
    if choice < ground + COLOUR_SHARE:
        name = pick_name(rng, thing.colour_row.names)
        pattern = rng.choice(("{}", "{}", "something {}", "{} thing"))
        return Caption(opening + pattern.format(name), Claims((Mention(None, thing.colour),)))
    colour = rng.random() < 0.65
    size = rng.random() < 0.08
    mention = Mention(thing.kind, thing.colour if colour else None, thing.size if size else None)
    phrase = noun_phrase(rng, [thing], colour=colour, size=size, opinion=0.0)
    if opening:
        phrase = with_article(phrase)
    if rng.random() < 0.3:
        text = f"{opening}{phrase} {place_of(rng, scene.background)}"
        return Caption(text, Claims((mention,), scene.background))
    return Caption(f"{opening}{phrase}", Claims((mention,)))


def _family(
    rng: random.Random, split: Split, singles: float, ground: float
) -> list[tuple[Scene, Caption]]:
    """Draw a scene and its twins, each with a text of the same sort."""
    single = rng.random() < singles
    scene = sample_scene(rng, split, 1 if single else None)
    scenes = [scene, *(change_one(rng, scene) for _ in range(TWINS))]
    if rng.random() < (0.75 if single else 0.25):
        return [(one, write_short(rng, one, ground)) for one in scenes]
    return [(one, write_caption(rng, one)) for one in scenes]


def _empty(rng: random.Random) -> list[tuple[Scene, Caption]]:
    """Draw as many pictures of backgrounds alone, no two alike, named so."""
    drawn = []
    for row in rng.sample(BACKGROUNDS, TWINS + 1):
        opening = f"{rng.choice(OPENINGS)} " if rng.random() < 0.3 else ""
        claims = Claims((), row.name)
        scene = Scene(row.name, (), rng.getrandbits(32))
        drawn.append((scene, Caption(f"{opening}{pick_name(rng, row.nouns)}", claims)))
    return drawn


def _all_pairs(rng: random.Random, split: Split, size: int) -> list[tuple[Scene, Caption]]:
    """Draw scenes with one thing each, no two of the same kind and colour, named so."""
    pairs = [(kind.name, colour.name) for kind in KINDS for colour in COLOURS]
    drawn = []
    for kind, colour in rng.sample(pairs, size):
        scene = sample_scene(rng, split, 1, kind=kind, colour=colour)
        claims = Claims((Mention(kind, colour),))
        drawn.append((scene, Caption(f"{colour} {kind}", claims)))
    return drawn


def draw_batch(
    rng: random.Random,
    size: int,
    *,
    split: Split = "train",
    singles: float = 0.5,
    pairs: float = 0.0,
    ground: float = 0.15,
    empty: float = 0.0,
) -> ContrastBatch:
    """Draw a batch of pictures and texts.

    Args:
        rng: source of all draws.
        size: pictures, a multiple of `TWINS` + 1; not more than there are pairs of kind and colour.
        split: which scenes.
        singles: share of families of scenes with one thing.
        pairs: how likely the whole batch holds single things of different kind or colour instead,
            their backgrounds not named: the lesson that kinds are learned from first.
        ground: share of short texts that name the background alone.
        empty: share of families of pictures without things.
    """
    assert size % (TWINS + 1) == 0, size
    if rng.random() < pairs:
        drawn = _all_pairs(rng, split, size)
    else:
        families = [
            _empty(rng) if rng.random() < empty else _family(rng, split, singles, ground)
            for _ in range(size // (TWINS + 1))
        ]
        drawn = [member for family in families for member in family]
    fits = [[caption.claims.are_true_of(scene) for _, caption in drawn] for scene, _ in drawn]
    return ContrastBatch(
        np.stack([render_scene(scene) for scene, _ in drawn]),
        [caption.text for _, caption in drawn],
        rng.sample(DISTRACTORS, NUM_DISTRACTORS),
        np.array(fits, dtype=bool),
    )
