"""The text that the world's LLM reads: captions, descriptions, questions, and bags of patch words.

A document is a list of segments, each with its weight in the loss. Half of the documents are a bag
of patch words (one true word per patch, row by row) followed by a caption: what aligned visual
tokens look like to an LLM, so it can read a caption out of them before it ever meets a picture. A
curriculum goes from scenes with one thing to full ones. Limits: training scenes only, unless told
otherwise.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from playground.captions import noun_phrase, pick_name, with_article, write_caption
from playground.render import BACKGROUND, patch_owners
from playground.scene import Scene, Thing, sample_scene
from playground.vocabulary import BACKGROUNDS, COLOURS, KINDS, SIZES
from playground.world import GRID, PICTURE_SIDE, Split

END = "</s>"
"""Ends an answer, as in LLaVA's conversations."""

EVIDENCE_WEIGHT = 0.1
"""Weight of evidence in the loss: to foresee it is a lesson in looking back, not the aim."""

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six")


@dataclass(frozen=True)
class Segment:
    """A piece of text, tokenised on its own, and its weight in the loss (0: only read)."""

    text: str
    weight: float


def _first_names() -> list[str]:
    groups = [row.names for row in KINDS] + [row.names for row in COLOURS]
    groups += [row.names for row in SIZES]
    groups += [tuple(word for word in row.words if " " not in word) for row in BACKGROUNDS]
    return [name for names in groups for name in names]


SINGLE_WORDS = tuple(_first_names())
"""Words without a space that may be true of a patch."""

SINGLE_BACKGROUND_WORDS = {
    row.name: tuple(word for word in row.words if " " not in word) for row in BACKGROUNDS
}


def bag_of_words(rng: random.Random, scene: Scene) -> str:
    """Say one true word for each patch, row by row.

    Per document the share of colour words, the loyalty to first names, the noise (words that are
    not true) and at times a thinner grid are drawn anew.
    """
    colour_share = rng.uniform(0.3, 0.6)
    noise = rng.choice((0.0, 0.0, 0.05, 0.1))
    rows, columns = GRID
    step = 1 if rng.random() < 0.6 else 2
    owners = patch_owners(scene)
    words = []
    for row in range(0, rows, step):
        for column in range(0, columns, step):
            if rng.random() < noise:
                words.append(rng.choice(SINGLE_WORDS))
                continue
            owner = int(owners[row, column])
            if owner == BACKGROUND:
                words.append(pick_name(rng, SINGLE_BACKGROUND_WORDS[scene.background]))
                continue
            thing = scene.things[owner]
            draw = rng.random()
            if draw < 0.05:
                words.append(pick_name(rng, thing.size_row.names))
            elif draw < 0.05 + colour_share:
                words.append(pick_name(rng, thing.colour_row.names))
            else:
                words.append(pick_name(rng, thing.kind_row.names))
    return " ".join(words)


def region_of(thing: Thing) -> str:
    """Name the part of the picture where a thing stands, e.g. "top left"."""
    x, y = (value / PICTURE_SIDE for value in thing.centre)
    vertical = "top" if y < 0.4 else "bottom" if y > 0.6 else "middle"
    horizontal = "left" if x < 0.4 else "right" if x > 0.6 else "centre"
    return f"{vertical} {horizontal}"


def describe(rng: random.Random, scene: Scene) -> str:
    """List the things with their places and the background, in reading order."""
    things = sorted(scene.things, key=lambda thing: (thing.y // 24, thing.x))
    parts = [
        f"{region_of(thing)}: "
        + with_article(noun_phrase(rng, [thing], colour=True, size=rng.random() < 0.5, opinion=0))
        for thing in things
    ]
    noun = pick_name(rng, scene.background_row.nouns)
    return "; ".join([*parts, f"background: {noun}"])


def _unique(scene: Scene, attribute: str) -> list[Thing]:
    values = [getattr(thing, attribute) for thing in scene.things]
    return [t for t in scene.things if values.count(getattr(t, attribute)) == 1]


def ask(rng: random.Random, scene: Scene) -> tuple[str, str]:
    """Draw a question about a scene and its answer."""
    choice = rng.random()
    if choice < 0.35:
        there = rng.random() < 0.5
        kinds = {thing.kind for thing in scene.things}
        rows = [row for row in KINDS if (row.name in kinds) == there]
        return f"is there {with_article(rng.choice(rows).name)}?", "yes" if there else "no"
    if choice < 0.45:
        thing = rng.choice(scene.things)
        pairs = {(t.kind, t.colour) for t in scene.things}
        there = rng.random() < 0.5
        colours = [c.name for c in COLOURS if ((thing.kind, c.name) in pairs) == there]
        question = f"is there {with_article(f'{rng.choice(colours)} {thing.kind}')}?"
        return question, "yes" if there else "no"
    if choice < 0.65 and (things := _unique(scene, "kind")):
        thing = rng.choice(things)
        return f"what colour is the {thing.kind}?", thing.colour
    if choice < 0.85 and (things := _unique(scene, "colour")):
        thing = rng.choice(things)
        return f"what is the {thing.colour} thing?", thing.kind
    if choice < 0.92:
        return "how many things are there?", NUMBER_WORDS[len(scene.things)]
    return "what is the background?", scene.background


def caption_document(rng: random.Random, scene: Scene) -> list[Segment]:
    """A bare caption."""
    return [Segment(write_caption(rng, scene).text + "\n", 1.0)]


def bag_document(rng: random.Random, scene: Scene) -> list[Segment]:
    """A bag of patch words, then a caption."""
    return [Segment(bag_of_words(rng, scene), EVIDENCE_WEIGHT), *caption_document(rng, scene)]


def description_document(rng: random.Random, scene: Scene) -> list[Segment]:
    """A description with places, then a caption."""
    return [Segment(describe(rng, scene) + "\n", EVIDENCE_WEIGHT), *caption_document(rng, scene)]


def question_document(rng: random.Random, scene: Scene) -> list[Segment]:
    """A scene in words and some questions about it."""
    told = describe(rng, scene) if rng.random() < 0.7 else bag_of_words(rng, scene)
    segments = [Segment(told + "\n", EVIDENCE_WEIGHT)]
    for _ in range(rng.randint(2, 7)):
        question, answer = ask(rng, scene)
        segments += [Segment(f"USER: {question} ASSISTANT:", 0.0), Segment(answer + END, 1.0)]
    return segments


Maker = Callable[[random.Random, Scene], list[Segment]]

MAKERS: tuple[Maker, ...] = (
    bag_document,
    caption_document,
    description_document,
    question_document,
)
EARLY_SHARES = (0.20, 0.05, 0.20, 0.55)
LATE_SHARES = (0.50, 0.06, 0.10, 0.34)
"""Shares of the kinds of documents: first mostly short ones that teach looking things up."""

EARLY_UNTIL = 0.3
SINGLES_UNTIL, SINGLES_LATE = 0.15, 0.15
"""The curriculum: parts of the training; share of scenes with one thing from then on."""


def draw_document(
    rng: random.Random, progress: float = 1.0, split: Split = "train"
) -> list[Segment]:
    """Draw a document.

    Args:
        rng: source of all draws.
        progress: how far training is, 0 to 1; early documents are about one thing.
        split: which scenes.
    """
    singles = max(SINGLES_LATE, 1.0 - progress / SINGLES_UNTIL)
    scene = sample_scene(rng, split, 1 if rng.random() < singles else None)
    shares = EARLY_SHARES if progress < EARLY_UNTIL else LATE_SHARES
    return rng.choices(MAKERS, shares)[0](rng, scene)
