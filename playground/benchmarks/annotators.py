"""Ten people's answers to a question whose answer is known, as VQAv2 and its kin have them.

At least seven mean the right answer; some of these write a capital letter, an article or a digit.
The others use a synonym, or err. So a right answer scores 100 under VQA accuracy (four equal
answers are enough, once normalised), and the most frequent answer as written is the right one.
Limits: answers are values of the world (kinds, colours, ...), or are returned as they are.
"""

from __future__ import annotations

import random

from playground.captions import with_article
from playground.questions import NUMBER_WORDS
from playground.vocabulary import (
    BACKGROUND_BY_NAME,
    COLOUR_BY_NAME,
    KIND_BY_NAME,
    SIGN_WORDS,
)

NUM_ANNOTATORS = 10
MIN_RIGHT = 7
NUM_PLAIN = 6
"""So many are right, at least; and so many write the right answer just as it is."""

REGIONS = ("top left", "top right", "bottom left", "bottom right")

DOMAINS: tuple[tuple[str, ...], ...] = (
    ("yes", "no"),
    tuple(KIND_BY_NAME),
    tuple(COLOUR_BY_NAME),
    tuple(BACKGROUND_BY_NAME),
    NUMBER_WORDS[1:],
    SIGN_WORDS,
    REGIONS,
    ("left", "right"),
    ("above", "below"),
)
"""Values that may be taken for each other."""


def domain_of(answer: str) -> tuple[str, ...]:
    """Return the values among which an answer is one; itself alone if there are none."""
    return next((domain for domain in DOMAINS if answer in domain), (answer,))


def synonyms_of(answer: str) -> tuple[str, ...]:
    """Return other words for an answer."""
    if answer in KIND_BY_NAME:
        return KIND_BY_NAME[answer].names[1:]
    if answer in COLOUR_BY_NAME:
        return COLOUR_BY_NAME[answer].names[1:]
    if answer in BACKGROUND_BY_NAME:
        return BACKGROUND_BY_NAME[answer].nouns[1:]
    return ()


def _dressed(rng: random.Random, answer: str) -> str:
    """Write an answer in another way that normalisers undo."""
    ways = [answer.capitalize()]
    if answer in KIND_BY_NAME:
        ways.append(with_article(answer))
    if answer in NUMBER_WORDS:
        ways.append(str(NUMBER_WORDS.index(answer)))
    return rng.choice(ways)


def _other(rng: random.Random, answer: str) -> str:
    """Answer with a synonym or, half of the time or if there is none, with something wrong."""
    synonyms = synonyms_of(answer)
    if synonyms and rng.random() < 0.5:
        return rng.choice(synonyms)
    wrong = [value for value in domain_of(answer) if value != answer]
    return rng.choice(wrong) if wrong else answer


def annotate(rng: random.Random, answer: str) -> list[str]:
    """Return ten answers, mixed.

    Args:
        rng: source of all draws.
        answer: the right one.
    """
    num_right = rng.randint(MIN_RIGHT, NUM_ANNOTATORS)
    answers = [answer] * NUM_PLAIN
    for _ in range(num_right - NUM_PLAIN):
        answers.append(_dressed(rng, answer) if rng.random() < 0.4 else answer)
    answers += [_other(rng, answer) for _ in range(NUM_ANNOTATORS - num_right)]
    rng.shuffle(answers)
    return answers


def confidence(rng: random.Random) -> str:
    """Return how sure an annotator says to be: "yes", "maybe" or "no"."""
    return rng.choices(("yes", "maybe", "no"), (0.8, 0.15, 0.05))[0]
