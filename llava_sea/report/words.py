"""The words among which nearest ones are sought: their tokens, embeddings, and the best of them.

Words are embedded in blocks, so that a list of millions costs memory for one block.

Shape letters: N visual tokens, Q words, M tokens of a word, K best words, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from llava_sea.alignment import word_targets
from llava_sea.data.words import tokenize_words
from llava_sea.model.stage1 import Stage1Model

WORD_BLOCK = 2048


class Words:
    """The words among which the nearest is sought, and their tokens."""

    def __init__(self, words: Sequence[str], tokenizer: Any, num_rows: int) -> None:
        """Tokenise words; those that the tokenizer can't write are left out and counted."""
        tokens = tokenize_words(words, tokenizer, num_rows)
        kept_Q = ~tokens.dropped_Q
        self.words: list[str] = np.array(words, dtype=object)[kept_Q].tolist()
        self.rank = {word: place for place, word in enumerate(self.words)}
        self.ids_QM = torch.from_numpy(tokens.ids_QM[kept_Q].astype(np.int64))
        self.num_dropped = tokens.num_dropped

    def blocks(self, model: Stage1Model, device: torch.device) -> Iterator[Tensor]:
        """Yield the words' embeddings, the mean over each word's tokens (eq. 10)."""
        for ids_QM in self.ids_QM.split(WORD_BLOCK):
            yield _embed(model, ids_QM.to(device))

    def some(self, model: Stage1Model, places: Sequence[int], device: torch.device) -> Tensor:
        """Return the embeddings of the words at some places ``(len(places), D)``."""
        return _embed(model, self.ids_QM[list(places)].to(device))


def best_words(visual_ND: Tensor, blocks: Iterable[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Find the words with the largest cosine (eq. 4 lists only the first of them).

    Args:
        visual_ND: visual tokens ``(N, D)``.
        blocks: word embeddings, in blocks that follow each other.
        count: words wanted; all where there are fewer.

    Returns:
        Places in the list and cosines, both ``(N, K)``, the largest first.
    """
    unit_ND = normalize(visual_ND.float(), dim=-1)
    ids_NK = torch.empty(len(visual_ND), 0, dtype=torch.int64, device=visual_ND.device)
    cosine_NK = torch.empty(len(visual_ND), 0, device=visual_ND.device)
    first = 0
    for words_QD in blocks:
        cosine_NQ = unit_ND @ normalize(words_QD.float(), dim=-1).T
        top = cosine_NQ.topk(min(count, len(words_QD)), dim=1)
        cosine_NK = torch.cat([cosine_NK, top.values], dim=1)
        ids_NK = torch.cat([ids_NK, top.indices + first], dim=1)
        order_NK = cosine_NK.argsort(dim=1, descending=True, stable=True)[:, :count]
        cosine_NK, ids_NK = cosine_NK.gather(1, order_NK), ids_NK.gather(1, order_NK)
        first += len(words_QD)
    return ids_NK, cosine_NK


def _embed(model: Stage1Model, ids_QM: Tensor) -> Tensor:
    return word_targets(model.embed(ids_QM.clamp(min=0)), ids_QM >= 0)
