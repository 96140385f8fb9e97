"""Questions about the word on a sign, and what an OCR system would read there.

The system mostly reads the word; at times it misreads a letter, adds a speck, or reads nothing.
Limits: one sign a picture, one word a sign.
"""

from __future__ import annotations

import random

from playground.benchmarks.prompts import OCR_TOKENS
from playground.questions import Question
from playground.scene import Scene
from playground.vocabulary import SIGN_WORDS

ASKED = "what does the sign say?"
OTHER_ASKED = ("which word is on the sign?", "what is the word on the board?")
CONFUSIONS = {"o": "c", "i": "l", "e": "f", "a": "n", "m": "n", "l": "i"}
"""Letters that are misread, and as what."""


def ask_written(rng: random.Random, scene: Scene, count: int = 1) -> list[Question]:
    """Ask up to three different questions about the word on the sign; none without a sign."""
    if scene.sign is None:
        return []
    word = scene.sign.word
    pair = rng.sample((word, rng.choice([other for other in SIGN_WORDS if other != word])), 2)
    texts = [ASKED, rng.choice(OTHER_ASKED), f"does the sign say {pair[0]} or {pair[1]}?"]
    if count < len(texts):
        texts = [ASKED if rng.random() < 0.6 else texts[1], texts[2]][:count]
    return [Question("written word", text, word) for text in texts]


def read_tokens(rng: random.Random, scene: Scene) -> list[str]:
    """Return the tokens that the OCR system read."""
    assert scene.sign is not None
    word = scene.sign.word
    draw = rng.random()
    if draw < 0.1:
        return []
    if draw < 0.2:
        places = [i for i, letter in enumerate(word) if letter in CONFUSIONS]
        if places:
            place = rng.choice(places)
            word = word[:place] + CONFUSIONS[word[place]] + word[place + 1 :]
    return [word, "i"] if draw > 0.9 else [word]


def token_line(tokens: list[str]) -> str:
    """Return the prompt's line of OCR tokens."""
    return OCR_TOKENS + ", ".join(tokens)
