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
`symmetric_infonce`.

Shape letters: N own patches (rows), U distinct words (columns), D hidden size, K targets of a
patch, J words of its top n.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from llava_sea.alignment.contrast import ROWS, Targets, contrast
from llava_sea.alignment.loss import within_limit


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
    chunk: int = ROWS,
    keep_logits: bool | None = None,
) -> Tensor:
    """InfoNCE between patches and distinct words (eq. 11 with the targets above).

    Args:
        visual_ND: projected visual tokens of this process ``(N, D)``.
        text_UD: the words' targets (eq. 10) in the order of ``labels.word_U``, ``(U, D)``. No
            gradient flows to them.
        log_scale: as in `symmetric_infonce`.
        labels: the patches' words; of this process's patches only.
        group: the processes whose patches and words are each other's negatives.
        chunk: as there.
        keep_logits: as there.

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
    place_N = (weight_NK > 0).any(1).nonzero()[:, 0]
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
