"""Parts of speech, offline: textblob's Brill lexicon and suffix rules, whose files come with it.

textblob tags each token by itself (lexicon, then affixes; it does not apply its contextual rules),
so one cached tag a distinct token gives the same tags as tagging whole captions (2.6 times the
captions per second). A few contextual repairs follow, for what captions need most ("the interior
of", "a stop sign").
Limits: English; lower-case tokens. textblob is imported at the first use: it takes about a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

# The cache's bound: 2^17 tokens take about 20 MB, and hold more than the lexicon has.
CACHED_TOKENS = 1 << 17

BOUNDARY = "."
"""The token, and its tag, that stands for punctuation: no phrase crosses it."""

# Words whose lexicon tag keeps captions' commonest phrases apart: "sports car" is NNS NN there.
TAG_OVERRIDES = {"sports": "NN", "round": "JJ"}

ENDS_NOUN_PHRASE = frozenset(("IN", "VBZ", "VBP", "MD", BOUNDARY))
OPENS_NOUN_PHRASE = frozenset(("DT", "PRP$"))
BARE_VERBS = frozenset(("VB", "VBP"))


@lru_cache(maxsize=CACHED_TOKENS)
def tag_token(token: str) -> str:
    """The Penn tag of one lower-case token, by itself."""
    if token in TAG_OVERRIDES:
        return TAG_OVERRIDES[token]
    if token == BOUNDARY:
        return BOUNDARY
    from textblob.en import tag

    return str(tag(token, tokenize=False)[0][1])


def tag_tokens(tokens: Sequence[str]) -> list[str]:
    """Penn tags of a caption's tokens, with the contextual repairs.

    Args:
        tokens: lower-case words, with `BOUNDARY` where punctuation stood.

    Repairs, each left to right on the tags so far:
        after a determiner, an adjective or verb form that ends the phrase is a noun
            ("the interior of", "a drawing of", "a run.");
        after a determiner or adjective, a bare verb is a noun ("a stop sign", "a red drink").
    """
    tags = [tag_token(token) for token in tokens]
    for i in range(1, len(tags)):
        tag, before = tags[i], tags[i - 1]
        if tag in BARE_VERBS:
            if before in OPENS_NOUN_PHRASE or before == "JJ":
                tags[i] = "NN"
        elif before in OPENS_NOUN_PHRASE and (tag == "JJ" or tag in ("VBG", "VBN", "VBD")):
            after = tags[i + 1] if i + 1 < len(tags) else BOUNDARY
            if after in ENDS_NOUN_PHRASE:
                tags[i] = "NN"
    return tags
