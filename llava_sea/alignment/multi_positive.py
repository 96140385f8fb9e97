"""Eq. 11 where patches share words, have several, or must not push some away.

The columns are the batch's distinct words, so a word never is its own negative. With T the weights
of a patch's target words (they add up to 1), p the softmax of a patch over the words, q that of a
word over the patches, and m_u the sum of T over the patches, the weight a word's mass:

    patch -> word:  mean over patches n of  - sum_u T_nu log p_nu
    word -> patch:  mean over words u of    - sum_n T_nu / m_u log q_nu

and the loss is half their sum. One drawn label a patch makes the second a mean over a word's
positives, as in supervised contrastive learning (arXiv 2004.11362, its L_out). With soft targets a
word counts in the second mean by min(1, m_u): one that no draw would likely pick weighs little, and
a single target a patch gives the drawn loss again. Where every patch has a word of its own, this is
`symmetric_infonce`. Memory: one chunk of rows of logits, and ids ``(N, K)``.

Shape letters: N own patches (rows), U distinct words (columns), D hidden size, K targets of a
patch, J words of its top n, C rows of a chunk.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import normalize

from llava_sea.alignment.loss import logit_scale


class PatchLabels(NamedTuple):
    """What the patches of a batch are labelled with; ids are of the word list, all int64."""

    word_U: Tensor
    """The distinct words, ascending; with a group those of all ranks, the same on each."""
    label_NK: Tensor
    """Each patch's target words."""
    weight_NK: Tensor
    """Their weights, not negative, of any scale (S of eq. 9); all 0: the patch takes no part."""
    own_NJ: Tensor | None = None
    """Words that are no negatives of the patch (its top n); ids not among `word_U` are passed over,
    and so is what is a target."""


def multi_positive_infonce(
    visual_ND: Tensor,
    text_UD: Tensor,
    log_scale: Tensor,
    labels: PatchLabels,
    *,
    group: dist.ProcessGroup | None = None,
    chunk: int = 1024,
) -> Tensor:
    """InfoNCE between patches and distinct words (eq. 11 with the targets above).

    Args:
        visual_ND: projected visual tokens of this process ``(N, D)``.
        text_UD: the words' targets (eq. 10) in the order of ``labels.word_U``, ``(U, D)``. No
            gradient flows to them.
        log_scale: as in `symmetric_infonce`.
        labels: the patches' words; of this process's patches only.
        group: the processes whose patches and words are each other's negatives.
        chunk: rows of logits held at a time.

    Returns:
        A scalar. Without a group the loss; with one this process's share, as `symmetric_infonce`
        returns it. 0, with zero gradients, when no patch has a label.

    Raises:
        ValueError: if the shapes do not fit, the words are not distinct and ascending, or a target
            is not among them.
    """
    word_U, label_NK, weight_NK, own_NJ = labels
    if len(visual_ND) != len(label_NK) or len(text_UD) != len(word_U):
        raise ValueError(
            f"{len(visual_ND)} visual tokens and {len(text_UD)} targets need as many rows of "
            f"labels and as many words, got {len(label_NK)} and {len(word_U)}"
        )
    if len(word_U) == 0:
        return 0.0 * (visual_ND.float().sum() + log_scale.float())  # no label on any rank
    weight_NK = weight_NK.float()
    column_NK = _columns(label_NK, word_U)
    lost = (weight_NK > 0) & (column_NK == len(word_U))
    if bool(lost.any() | (word_U[1:] <= word_U[:-1]).any()):
        raise ValueError("word_U must be distinct, ascending, and hold every word with a weight")
    weight_NK = weight_NK / weight_NK.sum(1, keepdim=True).clamp(min=torch.finfo().tiny)
    column_NK = torch.where(weight_NK > 0, column_NK, len(word_U))
    own_NJ = None if own_NJ is None else _columns(own_NJ, word_U)
    with torch.autocast(visual_ND.device.type, enabled=False):
        loss: Tensor = _MultiPositive.apply(
            normalize(visual_ND.float(), dim=-1),
            normalize(text_UD.detach().float(), dim=-1),
            logit_scale(log_scale),
            column_NK,
            weight_NK,
            own_NJ,
            group,
            chunk,
        )
    return loss


def _columns(id_NK: Tensor, word_U: Tensor) -> Tensor:
    """Find words by id; U where there is none."""
    column_NK = torch.searchsorted(word_U, id_NK.contiguous())
    found_NK = word_U[column_NK.clamp(max=len(word_U) - 1)] == id_NK
    return torch.where(found_NK, column_NK, len(word_U))


class _MultiPositive(torch.autograd.Function):
    """Row chunks of logits, computed again in the backward pass; a column U stands for none."""

    @staticmethod
    def forward(
        ctx: Any,
        visual_ND: Tensor,
        text_UD: Tensor,
        scale: Tensor,
        column_NK: Tensor,
        weight_NK: Tensor,
        own_NJ: Tensor | None,
        group: dist.ProcessGroup | None,
        chunk: int,
    ) -> Tensor:
        num_words = len(text_UD)
        labelled_N = (weight_NK > 0).any(1)
        # In float64, so that the order of a GPU's additions does not show.
        sums = torch.zeros(num_words + 1, dtype=torch.float64, device=visual_ND.device)
        sums.index_add_(0, column_NK.flatten(), weight_NK.flatten().double())
        sums[num_words] = labelled_N.sum()
        if group is not None:
            dist.all_reduce(sums, group=group)
        mass_U, num_rows = sums[:num_words].float(), sums[num_words].float().clamp(min=1)
        share_U = mass_U.clamp(max=1)
        share_U = share_U / share_U.sum().clamp(min=1)  # how much a word counts in the mean
        pull_U = share_U / mass_U.clamp(min=torch.finfo().tiny)  # of each unit of weight on it

        row_lse_N = torch.empty_like(visual_ND[:, 0])
        target_NK = torch.zeros_like(weight_NK)
        column_max_U = torch.full_like(text_UD[:, 0], -torch.inf)
        column_sum_U = torch.zeros_like(column_max_U)
        for part in _parts(len(visual_ND), chunk):
            cosine_CU = visual_ND[part] @ text_UD.T
            logits_CU = _hide(scale * cosine_CU, column_NK[part], own_NJ, part)
            row_lse_N[part] = logits_CU.logsumexp(1)
            target_NK[part] = logits_CU.gather(1, column_NK[part].clamp(max=num_words - 1))
            logits_CU.masked_fill_(~labelled_N[part][:, None], -torch.inf)
            new_max_U = torch.maximum(column_max_U, logits_CU.amax(0))
            pivot_U = torch.where(new_max_U.isfinite(), new_max_U, 0.0)
            column_sum_U = column_sum_U * (column_max_U - pivot_U).exp()
            column_sum_U += (logits_CU - pivot_U).exp().sum(0)
            column_max_U = new_max_U
        if group is not None:
            own_max_U = column_max_U.clone()
            dist.all_reduce(column_max_U, dist.ReduceOp.MAX, group=group)
            pivot_U = torch.where(column_max_U.isfinite(), column_max_U, 0.0)
            column_sum_U = column_sum_U * (own_max_U - pivot_U).exp()
            dist.all_reduce(column_sum_U, group=group)
        # Infinity makes every softmax of a row or column that takes no part 0.
        row_lse_N = torch.where(labelled_N, row_lse_N, torch.inf)
        column_lse_U = torch.where(mass_U > 0, column_max_U + column_sum_U.log(), torch.inf)

        row_NK = (row_lse_N[:, None] - target_NK) / num_rows
        at_NK = column_NK.clamp(max=num_words - 1)
        row_NK = row_NK + pull_U[at_NK] * (column_lse_U[at_NK] - target_NK)
        loss = torch.where(weight_NK > 0, weight_NK * row_NK, 0.0).sum() / 2
        ctx.save_for_backward(visual_ND, text_UD, scale, column_NK, weight_NK, own_NJ)
        ctx.rest = (row_lse_N, column_lse_U, num_rows, share_U, pull_U, labelled_N, chunk)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        visual_ND, text_UD, scale, column_NK, weight_NK, own_NJ = ctx.saved_tensors
        row_lse_N, column_lse_U, num_rows, share_U, pull_U, labelled_N, chunk = ctx.rest
        grad_visual_ND = torch.empty_like(visual_ND)
        grad_scale = torch.zeros_like(scale)
        for part in _parts(len(visual_ND), chunk):
            cosine_CU = visual_ND[part] @ text_UD.T
            logits_CU = _hide(scale * cosine_CU, column_NK[part], own_NJ, part)
            # d loss / d logits = p / rows + share * q - the targets' weights in both directions
            slope_CU = (logits_CU - row_lse_N[part][:, None]).exp() / num_rows
            slope_CU += (logits_CU - column_lse_U).exp() * share_U
            slope_CU.masked_fill_(~labelled_N[part][:, None], 0.0)
            column_CK = column_NK[part].clamp(max=len(text_UD) - 1)
            wanted_CK = weight_NK[part] * (1 / num_rows + pull_U[column_CK])
            slope_CU.scatter_add_(1, column_CK, -wanted_CK)
            slope_CU *= grads[0] / 2
            grad_visual_ND[part] = scale * (slope_CU @ text_UD)
            grad_scale += (slope_CU * cosine_CU).sum()
        return grad_visual_ND, None, grad_scale, None, None, None, None, None


def _parts(num_rows: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, num_rows)) for start in range(0, num_rows, chunk)]


def _hide(logits_CU: Tensor, column_CK: Tensor, own_NJ: Tensor | None, part: slice) -> Tensor:
    """Put minus infinity where a word is the patch's own and not its target."""
    if own_NJ is None:
        return logits_CU
    hidden_CU = logits_CU.new_zeros(len(logits_CU), logits_CU.shape[1] + 1, dtype=torch.bool)
    hidden_CU.scatter_(1, own_NJ[part], True).scatter_(1, column_CK, False)
    return logits_CU.masked_fill_(hidden_CU[:, :-1], -torch.inf)
