"""Captions as people write them: synonyms, phrases, chatter, and things left out.

A caption is a list of claims (which things, with which of their attributes, which background) and
the words that say them; `Claims` keeps the first so that a trainer can tell which other pictures a
caption is true of. Limits: lower-case, one or two sentences, no pronouns across sentences.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from playground.scene import Scene, Thing
from playground.vocabulary import BACKGROUND_BY_NAME, SIGN_NOUNS

SYNONYM_SHARE = 0.3
"""How often a name other than the first is used."""

OPENINGS = (
    "a photo of",
    "a picture of",
    "an image of",
    "a close up of",
    "a view of",
    "photo of",
    "picture showing",
    "this is",
)
EXISTENCE = ("there is", "we can see", "here is", "you can see")
ENDINGS = (
    ", stock photo",
    ", in daylight",
    " - free picture",
    ", seen from the front",
    ", nice shot",
)
OPINIONS = ("nice", "lovely", "old", "new")
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}


@dataclass(frozen=True)
class Mention:
    """What a caption says of a thing: its kind, colour and size, each or None."""

    kind: str | None
    colour: str | None = None
    size: str | None = None

    def is_true_of(self, thing: Thing) -> bool:
        """Whether the thing fits the mention."""
        return (
            self.kind in (None, thing.kind)
            and self.colour in (None, thing.colour)
            and self.size in (None, thing.size)
        )


@dataclass(frozen=True)
class Claims:
    """What a caption says of a scene, apart from where things are."""

    mentions: tuple[Mention, ...] = ()
    background: str | None = None
    sign: str | None = None

    def are_true_of(self, scene: Scene) -> bool:
        """Whether every mention fits some thing of the scene, and background and sign agree."""
        written = scene.sign.word if scene.sign else None
        agree = self.background in (None, scene.background) and self.sign in (None, written)
        return agree and all(
            any(mention.is_true_of(thing) for thing in scene.things) for mention in self.mentions
        )


@dataclass(frozen=True)
class Caption:
    """A text and what it claims."""

    text: str
    claims: Claims


def pick_name(rng: random.Random, names: tuple[str, ...]) -> str:
    """Pick the first name mostly, a synonym at times."""
    if len(names) > 1 and rng.random() < SYNONYM_SHARE:
        return rng.choice(names[1:])
    return names[0]


def with_article(phrase: str) -> str:
    """Put "a" or "an" before a phrase."""
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def noun_phrase(
    rng: random.Random,
    things: list[Thing],
    *,
    colour: bool,
    size: bool,
    opinion: float = 0.04,
) -> str:
    """Name one thing ("small red ball") or several alike ("two red balls"), no article for one."""
    first = things[0]
    row = first.kind_row
    name = pick_name(rng, row.names)
    if len(things) > 1:
        name = row.plurals[row.names.index(name)]
    words = [NUMBERS[len(things)]] if len(things) > 1 else []
    if rng.random() < opinion:
        words.append(rng.choice(OPINIONS))
    if size:
        words.append(pick_name(rng, first.size_row.names))
    if colour:
        words.append(pick_name(rng, first.colour_row.names))
    return " ".join([*words, name])


def _group(rng: random.Random, things: list[Thing]) -> list[list[Thing]]:
    """Join things of one kind into groups, half of the time."""
    groups: list[list[Thing]] = []
    for thing in things:
        for group in groups:
            if group[0].kind == thing.kind and rng.random() < 0.5:
                group.append(thing)
                break
        else:
            groups.append([thing])
    return groups


def _relation(rng: random.Random, one: Thing, other: Thing) -> str:
    """Say where one thing is, seen from another."""
    (x1, y1), (x2, y2) = one.centre, other.centre
    if rng.random() < 0.4:
        return rng.choice(("next to", "beside", "near"))
    if abs(x1 - x2) >= abs(y1 - y2):
        side = "left" if x1 < x2 else "right"
        return rng.choice((f"to the {side} of", f"on the {side} of"))
    return rng.choice(("above", "over")) if y1 < y2 else rng.choice(("below", "under"))


def place_of(rng: random.Random, background: str) -> str:
    """Say that something is on a background ("on the grass")."""
    row = BACKGROUND_BY_NAME[background]
    return rng.choice(row.places).format(pick_name(rng, row.nouns))


def sign_phrase(rng: random.Random, word: str) -> str:
    """Name a sign by the word on it, without an article ("sign that says stop")."""
    noun = pick_name(rng, SIGN_NOUNS)
    pattern = rng.choice(
        ("{noun} that says {word}", "{word} {noun}", "{noun} with the word {word}")
    )
    return pattern.format(noun=noun, word=word)


class _Writer:
    """Writes one caption: names groups of things and notes each claim that it makes."""

    def __init__(self, rng: random.Random, details: float) -> None:
        self.rng = rng
        self.details = details
        self.mentions: list[Mention] = []

    def name(self, group: list[Thing]) -> str:
        first = group[0]
        alike_colour = all(thing.colour == first.colour for thing in group)
        alike_size = all(thing.size == first.size for thing in group)
        colour = alike_colour and self.rng.random() < 0.8 * self.details
        size = alike_size and self.rng.random() < 0.2 * self.details
        for _ in group:
            self.mentions.append(
                Mention(first.kind, first.colour if colour else None, first.size if size else None)
            )
        phrase = noun_phrase(self.rng, group, colour=colour, size=size)
        return phrase if len(group) > 1 else with_article(phrase)

    def join(self, groups: list[list[Thing]]) -> str:
        """Name all groups: related in pairs at times, else listed."""
        names = [self.name(group) for group in groups]
        if len(names) == 1:
            return names[0]
        if self.rng.random() < 0.5 and len(groups[0]) == len(groups[1]) == 1:
            relation = _relation(self.rng, groups[0][0], groups[1][0])
            names[:2] = [f"{names[0]} {relation} {names[1]}"]
        if len(names) == 1:
            return names[0]
        return ", ".join(names[:-1]) + self.rng.choice((" and ", " and ", " with ")) + names[-1]


def write_caption(
    rng: random.Random, scene: Scene, *, details: float = 1.0, keep: float = 0.8
) -> Caption:
    """Write a caption of a scene.

    Args:
        rng: source of all choices.
        scene: what to write about.
        details: scales how often colours and sizes are said.
        keep: how often a thing is mentioned at all; one always is.
    """
    things = [thing for thing in scene.things if rng.random() < keep]
    if not things:
        things = [rng.choice(scene.things)]
    rng.shuffle(things)
    writer = _Writer(rng, details)
    groups = _group(rng, things)
    background = scene.background if rng.random() < 0.65 else None
    place = place_of(rng, scene.background) if background else ""
    pattern = rng.random()
    listed = writer.join(groups)
    sign = scene.sign.word if scene.sign and rng.random() < keep else None
    if sign:
        listed += rng.choice((" and ", " with ", " beside ")) + with_article(sign_phrase(rng, sign))
    if pattern < 0.4:
        text = f"{listed} {place}"
    elif pattern < 0.65:
        text = f"{rng.choice(OPENINGS)} {listed} {place}"
    elif pattern < 0.8:
        text = f"{rng.choice(EXISTENCE)} {listed} {place}"
    elif place and pattern < 0.9:
        text = f"{place}, {rng.choice(EXISTENCE)} {listed}"
    else:
        noun = pick_name(rng, scene.background_row.nouns)
        ending = f". the background is {noun}" if background else ""
        text = f"{listed}{ending}"
    text = text.strip()
    if rng.random() < 0.08:
        text += rng.choice(ENDINGS)
    return Caption(text, Claims(tuple(writer.mentions), background, sign))
