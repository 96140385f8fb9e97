"""Token ids of the label words, for the targets of eq. 10: t = mean of Ψ over a word's tokens.

A word is tokenised as it stands in running text, with its leading space ("▁boat", "Ġboat"), and
without BOS: it is put after another word, whose tokens are taken off again. That is right for
SentencePiece (either `legacy` setting) and byte-level BPE alike. 4 million take about a minute.

Shape letters: Q words, M tokens of the longest word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llava_sea.errors import UserError

_ANCHOR = "a"
_BLOCK = 65_536


@dataclass(frozen=True)
class WordTokens:
    """Token ids of every word, int32 ``(Q, M)`` padded with -1; a dropped word's row is all -1."""

    ids_QM: NDArray[np.int32]
    dropped_Q: NDArray[np.bool_]

    @property
    def num_dropped(self) -> int:
        """How many words can be no target: more tokens than allowed, or ones without a meaning."""
        return int(self.dropped_Q.sum())


def tokenize_words(
    words: Sequence[str], tokenizer: Any, num_rows: int, max_tokens: int = 16
) -> WordTokens:
    """Tokenise label words in their mid-sentence form; a word's number is its label id.

    Words of more than `max_tokens` are dropped, as are those with an unknown or other special
    token, or one that the LLM's embedding table of `num_rows` does not have.

    Raises:
        UserError: if there are no words, or every one is dropped.
    """
    if not words:
        raise UserError("the word list is empty: there is nothing to align with")
    anchor = _encode([_ANCHOR], tokenizer)[0]
    special = np.array(sorted(set(tokenizer.all_special_ids)), np.int32)
    limits = max_tokens, num_rows
    blocks = [
        _tokenize_block(words[start : start + _BLOCK], tokenizer, anchor, special, limits)
        for start in range(0, len(words), _BLOCK)
    ]
    width = max(block.shape[1] for block in blocks)
    ids_QM = np.full((len(words), width), -1, np.int32)
    for number, block in enumerate(blocks):
        ids_QM[number * _BLOCK : number * _BLOCK + len(block), : block.shape[1]] = block
    dropped_Q = ids_QM[:, 0] < 0 if width else np.ones(len(words), bool)
    if dropped_Q.all():
        raise UserError(
            f"none of the {len(words)} words (the first: {words[0]!r}) can be written in known "
            f"tokens of the language model (its table has {num_rows} rows), at most {max_tokens} "
            "each; is it the right tokenizer?"
        )
    return WordTokens(ids_QM, dropped_Q)


def vocabulary_words(tokenizer: Any, num_rows: int) -> list[str]:
    """Return the tokens that are lower-case words of two letters or more, with a space before them.

    Raises:
        UserError: if the tokenizer marks no spaces, so nobody knows which tokens are words.
    """
    tokens = tokenizer.convert_ids_to_tokens(range(min(len(tokenizer), num_rows)))
    marked = [token for token in tokens if token and token.startswith(("\u2581", "\u0120"))]
    texts = (tokenizer.convert_tokens_to_string([token]).strip() for token in marked)
    words = list(dict.fromkeys(t for t in texts if len(t) > 1 and t.isalpha() and t == t.lower()))
    if not words:
        raise UserError("the LLM's tokens do not say which are words; give a list with --words")
    return words


def _encode(texts: list[str], tokenizer: Any) -> list[list[int]]:
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def _tokenize_block(
    words: Sequence[str],
    tokenizer: Any,
    anchor: list[int],
    special: NDArray[np.int32],
    limits: tuple[int, int],
) -> NDArray[np.int32]:
    """Return a block's ids ``(B, M of the block)``; -1 rows are dropped words."""
    skip, (max_tokens, num_rows) = len(anchor), limits
    rows = _encode([f"{_ANCHOR} {word}" for word in words], tokenizer)
    # Were the two to share a token, the row would not begin with the anchor alone.
    rows = [row[skip:] if row[:skip] == anchor else [] for row in rows]
    length_B = np.fromiter((len(row) for row in rows), np.int64, len(rows))
    flat = np.fromiter(chain.from_iterable(rows), np.int32, int(length_B.sum()))
    row_of_token = np.repeat(np.arange(len(rows)), length_B)
    drop_B = length_B > max_tokens
    drop_B[row_of_token[np.isin(flat, special) | (flat >= num_rows)]] = True
    keep_B = ~drop_B
    width = int(length_B[keep_B].max(initial=0))
    column = np.arange(len(flat)) - np.repeat(length_B.cumsum() - length_B, length_B)
    ids_BM = np.full((len(rows), width), -1, np.int32)
    kept = keep_B[row_of_token]
    ids_BM[row_of_token[kept], column[kept]] = flat[kept]
    return ids_BM
