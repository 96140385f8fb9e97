"""Text of the world: captions of training scenes, and every word that the world knows."""

from __future__ import annotations

import random
import re
from collections import Counter

from playground.captions import OPINIONS, write_caption
from playground.distractors import distractors
from playground.scene import sample_scene
from playground.truth import words_of_background, words_of_sign, words_of_thing
from playground.vocabulary import BACKGROUNDS, COLOURS, KINDS, SIGN_WORDS, SIZES


def sample_captions(count: int, seed: int) -> list[str]:
    """Write captions of training scenes."""
    rng = random.Random(f"corpus/{seed}")
    return [write_caption(rng, sample_scene(rng, "train")).text for _ in range(count)]


def all_words() -> list[str]:
    """Return every word and phrase that is true of some patch, sorted."""
    words: set[str] = set()
    for kind in KINDS:
        for colour in COLOURS:
            for size in SIZES:
                words.update(words_of_thing(kind.name, colour.name, size.name))
    for background in BACKGROUNDS:
        words.update(words_of_background(background.name))
    for word in SIGN_WORDS:
        words.update(words_of_sign(word))
    return sorted(words)


CHATTER = ("photo", "picture", "image", "view", "close up", "stock photo", "daylight", "nice shot")
RELATIONS = ("left", "right", "front", "top", "background")


def caption_words(count: int = 5000, min_count: int = 5, seed: int = 0) -> list[str]:
    """Return the words and phrases that occur in captions, chatter and distractors, sorted.

    Much like a word list mined from captions: most entries are true of some patch, some of none.

    Args:
        count: how many captions are written.
        min_count: in how many of them a word has to occur.
        seed: decides the captions.
    """
    counts: Counter[str] = Counter()
    known = set(all_words())
    for caption in sample_captions(count, seed):
        words = re.findall(r"[a-z-]+", caption)
        spans = [" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, i + 4)]
        counts.update(known.intersection(spans))
    found = {word for word in known if counts[word] >= min_count}
    return sorted(found | {*CHATTER, *RELATIONS, *OPINIONS, *distractors()})
