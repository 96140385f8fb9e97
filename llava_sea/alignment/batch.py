"""The words of a batch's patches, as the loss takes them, which of them count, and all ranks'.

Words are joined over ranks by ids alone, no embedding is sent: the text side is frozen, so every
rank embeds all words itself. At 4,608 pairs with 4 tokens a word a rank sends 0.3 MB.

Shape letters: N own patches, U distinct words, T tokens of a word.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from llava_sea.alignment.sampling import keep_one_per_label


class PatchWords(NamedTuple):
    """The labelled patches of a batch and their words; ids are int64, of the word list."""

    label_N: Tensor
    """Each patch's target word, drawn by eq. 9."""
    valid_N: Tensor
    """Which patches take part, bool."""
    word_U: Tensor
    """The distinct words of the targets, ascending; with a group those of all its ranks."""
    words_UT: Tensor | None = None
    """Their token ids, padded with -1."""
    patch_N: Tensor | None = None
    """The patches' visual tokens, counted over all images of the batch."""
    key_N: Tensor | None = None
    """Random keys: of the patches that share a label the smallest stays."""

    def over_ranks(self, group: dist.ProcessGroup | None) -> PatchWords:
        """Join the words of all ranks, and choose one patch per label over all of them."""
        if group is None:
            return self
        assert self.words_UT is not None and self.key_N is not None
        word_U, words_UT = gather_words(self.word_U, self.words_UT, group=group)
        kept_M = keep_one_per_label(
            *gather_rows(self.label_N, self.key_N, self.valid_N, group=group)
        )
        kept_N = kept_M.chunk(dist.get_world_size(group))[dist.get_rank(group)]
        return self._replace(word_U=word_U, words_UT=words_UT, valid_N=kept_N)

    def num_pairs(self, group: dist.ProcessGroup | None) -> Tensor:
        """Count the patches that take part, on all ranks."""
        count = self.valid_N.sum()
        if group is not None:
            dist.all_reduce(count, group=group)
        return count


def gather_rows(*tensors: Tensor, group: dist.ProcessGroup | None = None) -> list[Tensor]:
    """Gather small integer tensors of equal shape from all ranks, in rank order, in one call."""
    packed = torch.cat([t.reshape(len(t), -1).long() for t in tensors], dim=1)
    parts = [torch.empty_like(packed) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, packed, group=group)
    columns = [t[0].numel() for t in tensors]
    gathered = torch.cat(parts).split(columns, dim=1)
    return [g.reshape(-1, *t.shape[1:]).to(t.dtype) for g, t in zip(gathered, tensors, strict=True)]


def gather_words(
    word_U: Tensor, words_UT: Tensor, *, group: dist.ProcessGroup | None = None
) -> tuple[Tensor, Tensor]:
    """Join the distinct words of all ranks and their tokens: distinct again, and ascending.

    Ranks may have different numbers of words.
    """
    room = torch.tensor(len(word_U), device=word_U.device)
    dist.all_reduce(room, dist.ReduceOp.MAX, group=group)
    missing = int(room) - len(word_U)
    if int(room) == 0:
        return word_U, words_UT
    word_M, words_MT = gather_rows(
        pad(word_U, (0, missing), value=-1),
        pad(words_UT, (0, 0, 0, missing), value=-1),
        group=group,
    )
    word_M, order_M = word_M.sort(stable=True)
    first_M = word_M >= 0
    first_M[1:] &= word_M[1:] != word_M[:-1]
    return word_M[first_M], words_MT[order_M[first_M]]
