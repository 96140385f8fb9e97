"""Which entries of the word list does a caption contain?

An entry occurs in a caption if its words stand there side by side, whole, in any case: "table" is
in "a Table, set" and not in "tables". Hyphens and apostrophes part words on both sides, so
"t-shirt" and "t shirt" are the same. The captions' own n-grams are looked up, so a list of millions
of entries takes no more than a pass or two.

Shape letters: I captions.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_TOKEN = re.compile(r"[^\W_]+")


def split_words(text: str) -> tuple[str, ...]:
    """Cut a text into lower-case words without punctuation."""
    return tuple(_TOKEN.findall(unicodedata.normalize("NFC", text).lower()))


def find_occurrences(captions: Sequence[str], words: Sequence[str]) -> list[NDArray[np.int64]]:
    """List, for every caption, the ids of the words and phrases that occur in it, ascending."""
    ids_of: dict[tuple[str, ...], list[int]] = {}
    lengths = {len(split_words(word)) for word in words} - {0}
    grams_I = [_grams(split_words(caption), lengths) for caption in captions]
    wanted = set().union(*grams_I)
    for number, word in enumerate(words):
        if (key := split_words(word)) in wanted:
            ids_of.setdefault(key, []).append(number)
    return [
        np.array(sorted(i for gram in grams for i in ids_of.get(gram, ())), dtype=np.int64)
        for grams in grams_I
    ]


def _grams(tokens: tuple[str, ...], lengths: set[int]) -> set[tuple[str, ...]]:
    return {tokens[i : i + n] for n in lengths for i in range(len(tokens) - n + 1)}
