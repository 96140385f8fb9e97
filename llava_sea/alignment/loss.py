"""The alignment loss (3.2): targets (eq. 10), symmetric InfoNCE (eq. 11) and its temperature.

A patch has target words with weights T that add up to 1 (the paper: one drawn word, T = 1). With p
the softmax of a patch over the batch's distinct words, q that of a word over the patches, and m_u
the sum of T over the patches, a word's mass:

    patch -> word:  mean over patches n of  - sum_u T_nu log p_nu
    word -> patch:  mean over words u of    - sum_n T_nu / m_u log q_nu

and L_a is half their sum. Where every patch has a word of its own this is eq. 11. Where patches
share a drawn word the second is a mean over the word's positives, as in supervised contrastive
learning (arXiv 2004.11362, its L_out). With soft targets a word counts in the second mean by
min(1, m_u): a word that no draw would likely pick weighs little.

Pure functions of tensors, but for the head. With a process group the negatives are those of all
ranks: every rank holds all words and only its own visual tokens, and two numbers a word are sent
(`contrast`). Loss and gradients equal those of one process that holds everything.

Shape letters: N own patches (rows), U distinct words (columns), M pairs of all ranks, K targets of
a patch, J words of its top n, D hidden size, L tokens of a word.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llava_sea.alignment.batch import PatchWords
from llava_sea.alignment.contrast import ROWS, Targets, contrast

LOG_SCALE_MAX = 4.605170185988092  # ln 100, CLIP's limit for its logit scale


class AlignmentHead(nn.Module):
    """The one trainable number of SEA: the log of the logit scale, 1/tau = exp(log_scale).

    Its distance from the start is trained: under bfloat16 a step of 0.001 from 2.659 would be lost
    in rounding, one from 0 is not.
    """

    def __init__(self, log_scale_init: float = 0.0) -> None:
        """Start at ``tau = exp(-log_scale_init)``; 0 is the paper, ln(1/0.07) = 2.659 is CLIP."""
        super().__init__()
        self.log_scale_init = float(log_scale_init)
        # One element, not a scalar: DeepSpeed cannot broadcast parameters without a dimension.
        self.log_scale_delta = nn.Parameter(torch.zeros(1))

    @property
    def log_scale(self) -> Tensor:
        """The log of the logit scale, a float32 scalar."""
        return self.log_scale_init + self.log_scale_delta[0].float()

    def forward(
        self,
        visual_ND: Tensor,
        text_ND: Tensor,
        valid_N: Tensor | None = None,
        group: dist.ProcessGroup | None = None,
        words: PatchWords | None = None,
    ) -> Tensor:
        """Return the loss of a batch (eq. 11): of `infonce` with words, else `symmetric_infonce`.

        `valid_N` does not go with words.
        """
        if words is not None:
            return infonce(visual_ND, text_ND, self.log_scale, words, group=group)
        return symmetric_infonce(visual_ND, text_ND, self.log_scale, valid_N, group=group)


def word_targets(embedded_NLD: Tensor, mask_NL: Tensor) -> Tensor:
    """Average the LLM's input embeddings of each word's tokens (SEA eq. 10).

    `mask_NL` is true where there is a token, not padding. Returns targets ``(N, D)`` in float32,
    detached; a row without tokens is zero.
    """
    weight_NL = mask_NL.float()
    weight_NL = weight_NL / weight_NL.sum(1, keepdim=True).clamp(min=1)
    # Zeros, not a weight of 0 alone: 0 x NaN is NaN.
    tokens_NLD = embedded_NLD.detach().masked_fill(~mask_NL.bool()[..., None], 0)
    return torch.einsum("nld,nl->nd", tokens_NLD.float(), weight_NL)


def within_limit(log_scale: Tensor) -> Tensor:
    """Return the log of the scale in float32, at most ln 100, with the gradient there."""
    log_scale = log_scale.float()
    return log_scale - (log_scale - LOG_SCALE_MAX).clamp(min=0).detach()


def infonce(
    visual_ND: Tensor,
    text_UD: Tensor,
    log_scale: Tensor,
    words: PatchWords,
    *,
    group: dist.ProcessGroup | None = None,
    chunk: int = ROWS,
    keep_logits: bool | None = None,
) -> Tensor:
    """InfoNCE between patches and distinct words (eq. 11), cosine similarity, in float32.

    Args:
        visual_ND: projected visual tokens of this process.
        text_UD: the targets (eq. 10) of ``words.word_U``. No gradient flows to them.
        log_scale: log of the logit scale, a scalar. Values above ln 100 count as ln 100 and still
            get its gradient, so that one that went too far can come back.
        words: the words of this process's patches (labels, weights, the distinct words).
        group: the processes whose patches and words are each other's negatives.
        chunk: rows of logits worked on at a time.
        keep_logits: hold the logits of all rows, 4 N U bytes, instead of making them twice: a
            third less arithmetic. Default: if they take at most 1 GiB, N = U = 16,384.

    Returns:
        A scalar. Without a group the loss. With one, this process's share: the shares add up to
        the loss and the gradients of the ranks add up to its gradient; where an engine averages
        gradients over W ranks, multiply by W. 0, with zero gradients, when no patch has a label.

    Raises:
        ValueError: if the shapes do not fit, the words are not distinct and ascending, or a target
            is not among them.
    """
    label_NK, weight_NK = words.label_NK, words.weight_NK
    word_U, own_NJ = words.word_U, words.own_NJ
    if len(visual_ND) != len(label_NK) or len(text_UD) != len(word_U):
        raise ValueError(
            f"{len(visual_ND)} visual tokens and {len(text_UD)} targets need as many rows of "
            f"labels and as many words, got {len(label_NK)} and {len(word_U)}"
        )
    if len(word_U) == 0:
        return 0.0 * (visual_ND.float().sum() + log_scale.float())  # no label on any rank
    place_N = words.valid_N.nonzero()[:, 0]
    if len(place_N) < len(label_NK):
        visual_ND = visual_ND.index_select(0, place_N)
        label_NK, weight_NK = label_NK[place_N], weight_NK[place_N]
        own_NJ = None if own_NJ is None else own_NJ[place_N]
    weight_NK = weight_NK.float()
    column_NK = _columns(label_NK, word_U)
    lost = (weight_NK > 0) & (column_NK == len(word_U))
    if bool(lost.any() | (word_U[1:] <= word_U[:-1]).any()):
        raise ValueError("word_U must be distinct, ascending, and hold every word with a weight")
    weight_NK = weight_NK / weight_NK.sum(1, keepdim=True).clamp(min=torch.finfo().tiny)
    column_NK = torch.where(weight_NK > 0, column_NK, len(word_U))
    own_NJ = None if own_NJ is None else _columns(own_NJ, word_U)
    return contrast(
        visual_ND,
        text_UD.detach(),
        within_limit(log_scale),
        _targets(column_NK, weight_NK, own_NJ, len(word_U), group),
        group=group,
        chunk=chunk,
        keep_logits=keep_logits,
    )


def symmetric_infonce(
    visual_ND: Tensor,
    text_MD: Tensor,
    log_scale: Tensor,
    valid_M: Tensor | None = None,
    *,
    group: dist.ProcessGroup | None = None,
    chunk: int = ROWS,
    keep_logits: bool | None = None,
) -> Tensor:
    """`infonce` where every patch has a word of its own: the N pairs of eq. 11.

    `text_MD` are the targets of all processes in rank order, the same on each; without a group
    M = N. Pairs that are not `valid_M` take no part. All else is as in `infonce`.

    Raises:
        ValueError: if the shapes do not fit.
    """
    world = dist.get_world_size(group) if group is not None else 1
    rank = dist.get_rank(group) if group is not None else 0
    if valid_M is None:
        valid_M = torch.ones(len(text_MD), dtype=torch.bool, device=text_MD.device)
    if len(visual_ND) * world != len(text_MD) or len(valid_M) != len(text_MD):
        raise ValueError(
            f"{len(visual_ND)} visual tokens on {world} process(es) need as many targets and "
            f"flags, got {len(text_MD)} and {len(valid_M)}"
        )
    rows = slice(rank * len(visual_ND), (rank + 1) * len(visual_ND))
    pair_M = torch.arange(len(text_MD), device=text_MD.device)
    words = PatchWords(pair_M[rows, None], valid_M[rows, None], word_U=pair_M[valid_M])
    options: Any = {"group": group, "chunk": chunk, "keep_logits": keep_logits}
    return infonce(visual_ND, text_MD[valid_M], log_scale, words, **options)


def _columns(id_NK: Tensor, word_U: Tensor) -> Tensor:
    """Find words by id; U where there is none."""
    column_NK = torch.searchsorted(word_U, id_NK.contiguous())
    found_NK = word_U[column_NK.clamp(max=len(word_U) - 1)] == id_NK
    return torch.where(found_NK, column_NK, len(word_U))


def _targets(
    column_NK: Tensor,
    weight_NK: Tensor,
    own_NJ: Tensor | None,
    num_words: int,
    group: dist.ProcessGroup | None,
) -> Targets:
    """Weigh both means of the module's docstring; one all-reduce of a float64 a word."""
    # In float64, so that the order of a GPU's additions does not show.
    sums = torch.zeros(num_words + 1, dtype=torch.float64, device=weight_NK.device)
    sums.index_add_(0, column_NK.flatten(), weight_NK.flatten().double())
    sums[num_words] = len(weight_NK)
    if group is not None:
        dist.all_reduce(sums, group=group)
    mass_U, num_rows = sums[:num_words].float(), sums[num_words].float().clamp(min=1)
    share_U = mass_U.clamp(max=1)
    share_U = share_U / share_U.sum().clamp(min=1)  # how much a word counts in the mean
    pull_U = share_U / mass_U.clamp(min=torch.finfo().tiny)  # of each unit of weight on it
    pull_NK = pull_U[column_NK.clamp(max=num_words - 1)]
    return Targets(column_NK, weight_NK / num_rows, weight_NK * pull_NK, share_U, own_NJ)
