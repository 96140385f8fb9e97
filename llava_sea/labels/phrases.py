"""From a caption to its words and phrases (appendix C).

Entries of a caption: nouns, adjectives, -ing verbs, and noun phrases with their attributes,
(JJ|VBN|VBG|NN)* NN(S), cut to the last `max_words` words, each also without leading modifiers:
"large red brick house" gives itself, "red brick house", "brick house" and "house".

Parts of speech come from textblob's Brill lexicon and suffix rules, whose files come with it. It
tags each token by itself, so one cached tag a distinct token gives the same tags as tagging whole
captions (2.6 times the captions per second); a few contextual repairs follow.
Limits: English; plural surface forms stay as they are, since an LLM's tokens for them differ.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

from llava_sea.labels.stop_words import CHATTER_PHRASES, STOP_WORDS

MAX_WORD_CHARS = 32
CACHED_TOKENS = 1 << 17  # about 20 MB, and more than the lexicon has

BOUNDARY = "."
"""The token, and its tag, that stands for punctuation: no phrase crosses it."""

NOUN, PLURAL, ADJECTIVE, ING_VERB, PHRASE = "NN", "NNS", "JJ", "VBG", "NP"
"""The parts of speech that entries have: Penn's, and NP for phrases of several words."""

URL = re.compile(
    r"(?:https?://|www\.)\S+|\S+@\S+\.\w+"
    r"|\b[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|edu|gov|info|co\.uk|de|io)\b(?:/\S*)?"
)
MARKUP = re.compile(r"<[^<>]{0,200}>")
POSSESSIVE = re.compile(r"(?<=\w)'s\b|(?<=s)'(?!\w)")
# Word characters joined by single hyphens and apostrophes, or anything else that is not a space.
TOKEN = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*|[^\s\w]")
# Patterns to cut out, in this order, each with characters of which it holds at least one.
CUTS = (("<", MARKUP), ("./@", URL), ("", CHATTER_PHRASES), ("'", POSSESSIVE))
DIGIT = re.compile(r"\d")
PLAIN_MARKS = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u02bc": "'", "\u2010": "-", "\u2011": "-", "\u00ad": None}
)

# One letter a tag, so that a phrase is a regular expression over letters.
TAG_LETTERS = {
    "JJ": "j", "JJR": "j", "JJS": "j", "VBN": "d", "VBD": "d", "VBG": "g",
    "NN": "n", "NNP": "n", "NNS": "s", "NNPS": "s",
}  # fmt: skip
CHUNK = re.compile(r"[jdgn]*[ns]")
SINGLE_POS = {"n": NOUN, "s": PLURAL, "j": ADJECTIVE, "g": ING_VERB}
# After these a participle is a verb, not an attribute: "man wearing red shoes", "is flowing".
BEFORE_VERB = frozenset(("VB", "VBZ", "VBP", "VBD", "VBN", "VBG", "MD", "TO", "PRP", "WP", "WDT"))
# Words whose lexicon tag keeps captions' commonest phrases apart: "sports car" is NNS NN there.
TAG_OVERRIDES = {BOUNDARY: BOUNDARY, "sports": "NN", "round": "JJ"}
ENDS_NOUN_PHRASE = frozenset(("IN", "VBZ", "VBP", "MD", BOUNDARY))
OPENS_NOUN_PHRASE = frozenset(("DT", "PRP$"))


def fold(text: str) -> str:
    """The spelling under which a word is counted: NFC, lower-case, plain apostrophes, hyphens."""
    text = unicodedata.normalize("NFC", text).lower().translate(PLAIN_MARKS)
    # Lower-casing can decompose (a dotted capital I): compose again.
    return unicodedata.normalize("NFC", text)


def normalize(caption: str) -> str:
    """A folded caption with `BOUNDARY` for markup, URLs, chatter phrases and the possessive 's."""
    if "&" in caption:
        caption = html.unescape(caption)
    text = fold(caption)
    for marks, pattern in CUTS:
        if not marks or any(mark in text for mark in marks):
            text = pattern.sub(f" {BOUNDARY} ", text)
    return text


def split_tokens(normalized: str) -> list[str]:
    """Words of a normalised text; `BOUNDARY` for punctuation, numbers and non-words.

    Tokens with a digit ("2015", "4k", "3d"), of one letter and of more than `MAX_WORD_CHARS`
    letters become boundaries; the articles "a" and "i" stay for the tagger.
    """
    return [token if _is_word(token) else BOUNDARY for token in TOKEN.findall(normalized)]


@lru_cache(maxsize=CACHED_TOKENS)
def tag_token(token: str) -> str:
    """The Penn tag of one lower-case token, by itself."""
    if token in TAG_OVERRIDES:
        return TAG_OVERRIDES[token]
    from textblob.en import tag  # takes about a second

    return str(tag(token, tokenize=False)[0][1])


def tag_tokens(tokens: Sequence[str]) -> list[str]:
    """Penn tags of a caption's tokens, repaired from left to right.

    After a determiner, an adjective or verb form that ends the phrase is a noun ("the interior of",
    "a drawing of", "a run."); after a determiner or adjective, a bare verb is one ("a stop sign",
    "a red drink").
    """
    tags = [tag_token(token) for token in tokens]
    for i in range(1, len(tags)):
        tag, before = tags[i], tags[i - 1]
        if tag in ("VB", "VBP"):
            if before in OPENS_NOUN_PHRASE or before == "JJ":
                tags[i] = "NN"
        elif before in OPENS_NOUN_PHRASE and tag in ("JJ", "VBG", "VBN", "VBD"):
            after = tags[i + 1] if i + 1 < len(tags) else BOUNDARY
            if after in ENDS_NOUN_PHRASE:
                tags[i] = "NN"
    return tags


def extract_entries(caption: str, max_words: int = 4) -> Iterator[tuple[str, str]]:
    """The entries of one caption as (word or phrase, part of speech); repeated if they occur twice.

    `max_words` is the longest phrase, in words; 1 gives single words only.
    """
    tokens = split_tokens(normalize(caption))
    tags = tag_tokens(tokens)
    letters = "".join([TAG_LETTERS.get(tag, ".") for tag in tags])
    for token, letter in zip(tokens, letters, strict=True):
        if letter == "g" and not token.endswith("ing"):
            continue
        if letter in SINGLE_POS and token not in STOP_WORDS:
            yield token, SINGLE_POS[letter]
    for match in CHUNK.finditer(_only_attributes(tags, letters)):
        chunk = slice(match.start(), match.end())
        yield from _phrases(tokens[chunk], letters[chunk], max_words)


def _phrases(chunk: Sequence[str], letters: str, max_words: int) -> Iterator[tuple[str, str]]:
    """The chunk's last words, 2 to `max_words` of them, with the stop words at its edges cut off.

    A chunk that ends in chatter ends at the noun before it: "fat cat photo" is about a fat cat.
    """
    last = len(chunk)
    while last > 0 and (chunk[last - 1] in STOP_WORDS or letters[last - 1] not in "ns"):
        last -= 1
    for start in range(last - 2, max(0, last - max_words) - 1, -1):
        if chunk[start] not in STOP_WORDS:
            yield " ".join(chunk[start:last]), PHRASE


def _only_attributes(tags: Sequence[str], letters: str) -> str:
    """The letters without participles that follow a noun or a verb: those are verbs."""
    if "g" not in letters and "d" not in letters:
        return letters
    kept = list(letters)
    for i in range(1, len(kept)):
        if kept[i] in "gd" and (letters[i - 1] in "ns" or tags[i - 1] in BEFORE_VERB):
            kept[i] = "."
    return "".join(kept)


def _is_word(token: str) -> bool:
    if len(token) == 1:
        return token in ("a", "i")
    return len(token) <= MAX_WORD_CHARS and not DIGIT.search(token)
