"""Which words are true of an image: those in its caption, and for each patch a truth file's.

An entry of the word list occurs in a caption if its words stand there side by side, whole, in any
case: "table" is in "a Table, set" and not in "tables". Hyphens and apostrophes part words on both
sides, so "t-shirt" and "t shirt" are the same. The captions' own n-grams are looked up, so a list
of millions of entries takes no more than a pass or two.

Shape letters: I captions.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llava_sea.errors import UserError
from llava_sea.files import LIST_BYTES, open_atomically, read_json

# Their n-grams take about 1 GB; for each part the word list is gone through once.
_CAPTIONS_AT_A_TIME = 100_000

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


class CaptionWords:
    """The words of a corpus's captions in a file that processes map: I + 1 places, then the ids."""

    def __init__(self, path: Path, num_captions: int) -> None:
        """Map the file that `write` made."""
        mapped = np.load(path, mmap_mode="r")
        self._ends, self._ids = mapped[: num_captions + 1], mapped[num_captions + 1 :]

    def __getitem__(self, caption: int) -> NDArray[np.int64]:
        return np.array(self._ids[self._ends[caption] : self._ends[caption + 1]])

    @staticmethod
    def write(path: Path, captions: Sequence[str], words: Sequence[str]) -> None:
        """Find the words of all captions, a part of them at a time."""
        ids_I = [
            ids
            for start in range(0, len(captions), _CAPTIONS_AT_A_TIME)
            for ids in find_occurrences(captions[start : start + _CAPTIONS_AT_A_TIME], words)
        ]
        ends = np.cumsum([0, *map(len, ids_I)])
        with open_atomically(path) as file:
            np.save(file, np.concatenate([ends, *ids_I]))


def _grams(tokens: tuple[str, ...], lengths: set[int]) -> set[tuple[str, ...]]:
    return {tokens[i : i + n] for n in lengths for i in range(len(tokens) - n + 1)}


class Truth:
    """The true words of every patch, where the images' maker knows them (the miniature world)."""

    def __init__(self, path: str | Path, flag: str = "--sea_eval_truth") -> None:
        """Read a truth file: ``words_sets``, and per image the set's number for each patch."""
        self._named = f"{flag} {path}"
        try:
            data = read_json(path, LIST_BYTES)
            self._sets = [frozenset(words) for words in data["words_sets"]]
            self._images: dict[str, list[int]] = data["images"]
            self._objects: dict[str, str] = data["objects"]
            self.grid: tuple[int, ...] = tuple(data["grid"])
        except UserError as error:
            raise UserError(f"{flag} {error}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self._named}: cannot be read ({error!r})") from None

    def words(self, image: str, patch: int) -> frozenset[str]:
        """Return the true words of a patch."""
        return self._sets[self._images[image][patch]]

    def is_object(self, image: str, patch: int) -> bool:
        """Say whether an object covers the patch."""
        return self._objects[image][patch] == "1"

    def check_grid(self, grid: tuple[int, int]) -> None:
        """Raise a UserError if the vision tower cuts its patches otherwise."""
        if self.grid != grid:
            raise UserError(
                f"{self._named}: is about {' x '.join(map(str, self.grid))} "
                f"patches, the vision tower makes {grid[0]} x {grid[1]}"
            )

    def check(self, image: str, num_patches: int) -> None:
        """Raise a UserError if the file does not know the image patch by patch."""
        for table in (self._images, self._objects):
            if len(table.get(image, ())) != num_patches:
                raise UserError(
                    f"{self._named}: {image!r} has {len(table.get(image, ()))} "
                    f"patches there, the vision tower makes {num_patches}"
                )
