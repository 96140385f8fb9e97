"""The alignment loss (3.2): targets (eq. 10) and symmetric InfoNCE (eq. 11).

The loss is a pure function of tensors. With a process group its negatives are those of all ranks:
the text side is frozen, so every rank holds all targets and only its own visual tokens; two numbers
a column are sent (`contrast`). Loss and gradients equal those of one process that holds everything.

Shape letters: N own pairs (rows), M all pairs (columns; M = N without a group), D hidden size,
L tokens of a word.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from llava_sea.alignment.contrast import ROWS, Targets, contrast

LOG_SCALE_MAX = 4.605170185988092  # ln 100, CLIP's limit for its logit scale


def word_targets(embedded_NLD: Tensor, mask_NL: Tensor) -> Tensor:
    """Average the input embeddings of each word's tokens (SEA eq. 10).

    Args:
        embedded_NLD: the LLM's input embeddings of the word's tokens, padded, ``(N, L, D)``.
        mask_NL: true where there is a token ``(N, L)``.

    Returns:
        Targets ``(N, D)`` in float32, detached; a row without tokens is zero.
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
    """Symmetric InfoNCE over the pairs of a batch (SEA eq. 11), cosine similarity, in float32.

    Args:
        visual_ND: projected visual tokens of this process ``(N, D)``.
        text_MD: targets of all processes in rank order ``(M, D)``, the same on each; without a
            group M = N. No gradient flows to them.
        log_scale: log of the logit scale, a scalar. Values above ln 100 count as ln 100 and still
            get its gradient, so that one that went too far can come back.
        valid_M: bool ``(M,)``; rows and columns that are not valid take no part. Default: all.
        group: the processes whose visual tokens are the negatives of each other's words.
        chunk: rows of logits worked on at a time.
        keep_logits: hold the logits of all rows, 4 N M bytes, instead of making them twice: a
            third less arithmetic. Default: if they take at most 1 GiB, N = M = 16,384.

    Returns:
        A scalar: this process's share ``sum over its rows / (2 * number of valid pairs)``. Without
        a group that is the loss. With one, the shares add up to the loss and the gradients of the
        ranks add up to its gradient: where an engine averages gradients over W ranks, multiply by
        W. It is 0, with zero gradients, when no pair is valid.

    Raises:
        ValueError: if the shapes do not fit.
    """
    world = dist.get_world_size(group) if group is not None else 1
    rank = dist.get_rank(group) if group is not None else 0
    num_flags = len(text_MD) if valid_M is None else len(valid_M)
    if len(visual_ND) * world != len(text_MD) or num_flags != len(text_MD):
        raise ValueError(
            f"{len(visual_ND)} visual tokens on {world} process(es) need as many targets and "
            f"flags, got {len(text_MD)} and {num_flags}"
        )
    rows = slice(rank * len(visual_ND), (rank + 1) * len(visual_ND))
    text_MD, column_N = text_MD.detach(), torch.arange(rows.start, rows.stop)
    column_N = column_N.to(text_MD.device)
    if valid_M is not None:
        visual_ND, text_MD, column_N = _valid_only(visual_ND, text_MD, valid_M, rows)
    share = 1 / max(len(text_MD), 1)
    weight_N1 = torch.full_like(column_N[:, None], share, dtype=torch.float32)
    share_M = weight_N1.new_full((len(text_MD),), share)
    return contrast(
        visual_ND,
        text_MD,
        within_limit(log_scale),
        Targets(column_N[:, None], weight_N1, weight_N1, share_M),
        group=group,
        chunk=chunk,
        keep_logits=keep_logits,
    )


def _valid_only(
    visual_ND: Tensor, text_MD: Tensor, valid_M: Tensor, rows: slice
) -> tuple[Tensor, Tensor, Tensor]:
    """Leave out what takes no part, and say in which columns the rows' targets are then."""
    column_N = (valid_M.cumsum(0) - 1)[rows]
    place_M = valid_M.nonzero()[:, 0]
    if len(place_M) == len(valid_M):
        return visual_ND, text_MD, column_N
    place_N = valid_M[rows].nonzero()[:, 0]
    return visual_ND.index_select(0, place_N), text_MD.index_select(0, place_M), column_N[place_N]
