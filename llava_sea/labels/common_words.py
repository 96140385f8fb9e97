"""A list of frequent words beside the corpus's own (appendix C: 2of12 of the 12dicts lists).

One word or phrase a line, `#` opens a comment line; the annotation marks that some 12dicts lists
put behind a word ("abacuses%") are cut off. Words are normalised as captions are.
Limits: the list is held in memory; words of the stop list are left out and counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from llava_sea.errors import UserError
from llava_sea.labels.json_stream import TextBlocks, iter_lines
from llava_sea.labels.phrases import POSSESSIVE, fold, split_tokens
from llava_sea.labels.stop_words import CHATTER_PHRASES, STOP_WORDS
from llava_sea.labels.tagging import BOUNDARY

ANNOTATIONS = "%:&#=<^~+*!$@"


class CommonWords(NamedTuple):
    """Sorted, distinct words, and how many lines fell to the stop list."""

    words: list[str]
    stopped: int


def read_common_words(path: Path) -> CommonWords:
    """Read a list of frequent words.

    Raises:
        UserError: the file is missing, holds no word, or a line is no word; with the line.
    """
    words: set[str] = set()
    stopped = 0
    blocks = TextBlocks(path)
    try:
        for number, line in iter_lines(blocks):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            word = _word(text)
            if word is None:
                raise UserError(
                    f"{path}, line {number}: {text!r} is not a word or phrase of letters, hyphens "
                    "and apostrophes; remove it or make it a comment with '#'"
                )
            if word in STOP_WORDS or len(word) == 1 or CHATTER_PHRASES.fullmatch(word):
                stopped += 1
            else:
                words.add(word)
    finally:
        blocks.close()
    if not words:
        raise UserError(f"--common_words {path}: the list holds no words")
    return CommonWords(sorted(words), stopped)


def _word(text: str) -> str | None:
    bare = POSSESSIVE.sub("", fold(text.rstrip(ANNOTATIONS)))
    if len(bare) == 1 and bare.isalpha():
        return bare
    tokens = split_tokens(bare)
    return None if BOUNDARY in tokens else " ".join(tokens) or None
