"""The alignment loss (3.2): targets (eq. 10), symmetric InfoNCE (eq. 11) and its temperature.

With p the softmax of a patch over the batch's distinct words and q that of a word over the patches:

    patch -> word:  mean over patches n of            - log p of n's word
    word -> patch:  mean over words of the mean over the word's patches n of  - log q_n

and L_a is half their sum. Where every patch has a word of its own this is eq. 11. Where patches
share a word the second is a mean over the word's positives, as in supervised contrastive learning
(arXiv 2004.11362, its L_out).

Pure functions of tensors, but for the head. With a process group the negatives are those of all
ranks: every rank holds all words and only its own visual tokens, and two numbers a word are sent
(`contrast`). Loss and gradients equal those of one process that holds everything.

Shape letters: N own patches (rows), U distinct words (columns), M pairs of all ranks, D hidden
size, L tokens of a word.
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


def length_loss(visual_ND: Tensor, embedded_NLD: Tensor, mask_NL: Tensor) -> Tensor:
    """Hold visual tokens at the length of embedding rows, which cosines leave free.

    The mean over the visual tokens of (length / r - 1)^2, r the mean length of the words' rows. An
    LLM reads lengths: in front of its first norm they weigh a token in the residual stream. Ours,
    not the paper's.

    Args:
        visual_ND: visual tokens ``(N, D)``.
        embedded_NLD: embedding rows of words' tokens, padded, ``(M, L, D)``; as in `word_targets`.
        mask_NL: true where there is a token ``(M, L)``.

    Returns:
        A scalar in float32; 0, with zero gradients, without visual tokens or without rows.
    """
    length_N = visual_ND.float().norm(dim=-1)
    row_K = embedded_NLD.detach()[mask_NL.bool()].float().norm(dim=-1)
    if not len(row_K) or not len(length_N):
        return 0.0 * length_N.sum()
    return (length_N / row_K.mean() - 1).square().mean()


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
        words: the words of this process's patches (labels, which count, the distinct words).
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
    label_N, word_U = words.label_N, words.word_U
    if len(visual_ND) != len(label_N) or len(text_UD) != len(word_U):
        raise ValueError(
            f"{len(visual_ND)} visual tokens and {len(text_UD)} targets need as many labels and as "
            f"many words, got {len(label_N)} and {len(word_U)}"
        )
    if len(word_U) == 0:
        return 0.0 * (visual_ND.float().sum() + log_scale.float())  # no label on any rank
    place_N = words.valid_N.nonzero()[:, 0]
    if len(place_N) < len(label_N):
        visual_ND, label_N = visual_ND.index_select(0, place_N), label_N[place_N]
    column_N = torch.searchsorted(word_U, label_N).clamp(max=len(word_U) - 1)
    if bool((word_U[column_N] != label_N).any() | (word_U[1:] <= word_U[:-1]).any()):
        raise ValueError("word_U must be distinct, ascending, and hold every label that counts")
    return contrast(
        visual_ND,
        text_UD.detach(),
        within_limit(log_scale),
        _targets(column_N, len(word_U), group),
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
    words = PatchWords(pair_M[rows], valid_M[rows], word_U=pair_M[valid_M])
    options: Any = {"group": group, "chunk": chunk, "keep_logits": keep_logits}
    return infonce(visual_ND, text_MD[valid_M], log_scale, words, **options)


def _targets(column_N: Tensor, num_words: int, group: dist.ProcessGroup | None) -> Targets:
    """Weigh both means of the module's docstring; one all-reduce of an int64 a word."""
    count_U = torch.bincount(column_N, minlength=num_words)
    if group is not None:
        dist.all_reduce(count_U, group=group)
    there_U = (count_U > 0).float()
    to_patch_U = there_U / there_U.sum().clamp(min=1)
    return Targets(
        column_N,
        1.0 / count_U.sum().clamp(min=1),
        (to_patch_U / count_U.clamp(min=1))[column_N],
        to_patch_U,
    )
