"""The truth of a patch: every word and phrase that rightly names what the patch shows.

An object patch may be called by its kind, its colour, its size and phrases of these, in the order
that English has them ("small red ball"); a sign's patch by its word and by what a sign is called;
any other patch by the words of the background. Signs count as objects.
Limits: words for relations ("left of") and numbers are true of no single patch.
"""

from __future__ import annotations

from functools import cache

from playground.render import BACKGROUND, SIGN, patch_owners
from playground.scene import Scene
from playground.vocabulary import (
    BACKGROUND_BY_NAME,
    COLOUR_BY_NAME,
    KIND_BY_NAME,
    SIGN_NOUNS,
    SIZE_BY_NAME,
)


@cache
def words_of_thing(kind: str, colour: str, size: str) -> tuple[str, ...]:
    """Return all true words and phrases of a thing, sorted."""
    row = KIND_BY_NAME[kind]
    nouns = {*row.names, *row.plurals}
    colours, sizes = COLOUR_BY_NAME[colour].names, SIZE_BY_NAME[size].names
    words = {*nouns, *colours, *sizes}
    words |= {f"{c} {n}" for c in colours for n in nouns}
    words |= {f"{s} {n}" for s in sizes for n in nouns}
    words |= {f"{s} {c} {n}" for s in sizes for c in colours for n in nouns}
    return tuple(sorted(words))


@cache
def words_of_background(background: str) -> tuple[str, ...]:
    """Return all true words and phrases of a background, sorted."""
    return tuple(sorted(BACKGROUND_BY_NAME[background].words))


@cache
def words_of_sign(word: str) -> tuple[str, ...]:
    """Return all true words and phrases of a sign with this word, sorted."""
    return tuple(sorted({word, *SIGN_NOUNS, *(f"{word} {noun}" for noun in SIGN_NOUNS)}))


def patch_words(scene: Scene) -> list[tuple[str, ...]]:
    """Return the true words of every patch, row by row."""
    words = []
    for owner in patch_owners(scene).reshape(-1).tolist():
        if owner == BACKGROUND:
            words.append(words_of_background(scene.background))
        elif owner == SIGN and scene.sign is not None:
            words.append(words_of_sign(scene.sign.word))
        else:
            thing = scene.things[owner]
            words.append(words_of_thing(thing.kind, thing.colour, thing.size))
    return words


def object_patches(scene: Scene) -> str:
    """Return a string of "1" for object patches and "0" for background patches, row by row."""
    owners = patch_owners(scene).reshape(-1).tolist()
    return "".join("0" if owner == BACKGROUND else "1" for owner in owners)
