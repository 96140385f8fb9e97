"""Words that no picture of the world shows: the rest of a word list, as a dictionary has it.

Nouns and adjectives of daily life and the phrases that they make. A word list mined from real
captions holds mostly words that are wrong for any given patch; these stand for them. The encoder
meets them as texts that fit no picture, the LLM as things that are not there. Limits: none is a
name of anything in `playground.vocabulary`.
"""

from __future__ import annotations

import itertools
import random

NOUNS = (
    *("airplane", "anchor", "apple", "arrow", "axe", "banana", "barrel", "bear", "bed", "bicycle"),
    *("bottle", "bowl", "bridge", "broom", "bucket", "candle", "cat", "chair", "church", "coin"),
    *("crown", "desk", "dog", "door", "elephant", "engine", "feather", "fence", "fork", "frog"),
    *("glove", "goat", "guitar", "hammer", "horse", "island", "jacket", "kettle", "ladder", "lion"),
    *("mirror", "monkey", "moon", "motorcycle", "mountain", "mushroom", "needle", "onion", "oven"),
    *(
        "pencil",
        "piano",
        "pillow",
        "pizza",
        "plate",
        "potato",
        "rabbit",
        "ribbon",
        "river",
        "robot",
    ),
    *("rocket", "saddle", "sandwich", "scissors", "sheep", "shoe", "skirt", "snake", "sofa"),
    *("spoon", "stairs", "table", "telephone", "tiger", "tower", "train", "trumpet", "turtle"),
    *("vase", "violin", "whale", "whistle", "window", "zebra"),
)

ADJECTIVES = (
    *("ancient", "broken", "clean", "dirty", "electric", "empty", "fancy", "folded", "frozen"),
    *("furry", "hollow", "metal", "modern", "narrow", "noisy", "plastic", "polished", "rusty"),
    *("shiny", "silver", "sleeping", "smooth", "soft", "striped", "tall", "wet"),
)


def distractors(phrases: int = 700) -> list[str]:
    """Return all single words and a fixed choice of phrases, sorted.

    Args:
        phrases: how many phrases of an adjective and a noun.
    """
    pairs = [f"{a} {n}" for a, n in itertools.product(ADJECTIVES, NOUNS)]
    return sorted({*NOUNS, *ADJECTIVES, *random.Random("distractors").sample(pairs, phrases)})
