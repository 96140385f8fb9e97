"""The alignment loss (3.2): targets (eq. 10) and symmetric InfoNCE (eq. 11).

The loss is a pure function of tensors. With a process group its negatives are those of all ranks:
the text side is frozen, so every rank holds all targets and only its own visual tokens; the
columns' softmax denominators are put together by two all-reduces of one number a column. Loss and
gradients equal those of one process that holds everything.

Shape letters: N own pairs (rows), M all pairs (columns; M = N without a group), D hidden size,
L tokens of a word.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import normalize

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
    return torch.einsum("nld,nl->nd", embedded_NLD.detach().float(), weight_NL)


def logit_scale(log_scale: Tensor) -> Tensor:
    """Return 1/tau = exp(log_scale) in float32; above 100 it is 100, with the gradient there."""
    log_scale = log_scale.float()
    return (log_scale - (log_scale - LOG_SCALE_MAX).clamp(min=0).detach()).exp()


def symmetric_infonce(
    visual_ND: Tensor,
    text_MD: Tensor,
    log_scale: Tensor,
    valid_M: Tensor | None = None,
    *,
    group: dist.ProcessGroup | None = None,
    chunk: int = 1024,
) -> Tensor:
    """Symmetric InfoNCE over the pairs of a batch (SEA eq. 11), cosine similarity.

    Args:
        visual_ND: projected visual tokens of this process ``(N, D)``.
        text_MD: targets of all processes in rank order ``(M, D)``, the same on each; without a
            group M = N. No gradient flows to them.
        log_scale: log of the logit scale, a scalar. Values above ln 100 count as ln 100 and still
            get its gradient, so that one that went too far can come back.
        valid_M: bool ``(M,)``; rows and columns that are not valid take no part. Default: all.
        group: the processes whose visual tokens are the negatives of each other's words.
        chunk: rows of logits held at a time.

    Returns:
        A scalar: this process's share ``sum over its rows / (2 * number of valid pairs)``. Without
        a group that is the loss. With one, the shares add up to the loss and the gradients of the
        ranks add up to its gradient: where an engine averages gradients over W ranks, multiply by
        W. It is 0, with zero gradients, when no pair is valid.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if valid_M is None:
        valid_M = torch.ones(len(text_MD), dtype=torch.bool, device=text_MD.device)
    world = dist.get_world_size(group) if group is not None else 1
    rank = dist.get_rank(group) if group is not None else 0
    if len(visual_ND) * world != len(text_MD) or len(valid_M) != len(text_MD):
        raise ValueError(
            f"{len(visual_ND)} visual tokens on {world} process(es) need as many targets and "
            f"flags, got {len(text_MD)} and {len(valid_M)}"
        )
    with torch.autocast(visual_ND.device.type, enabled=False):
        visual_ND = normalize(visual_ND.float(), dim=-1)
        text_MD = normalize(text_MD.detach().float(), dim=-1)
        scale = logit_scale(log_scale)
        offset = rank * len(visual_ND)
        loss: Tensor = _InfoNCE.apply(visual_ND, text_MD, scale, valid_M, offset, group, chunk)
    return loss


class _InfoNCE(torch.autograd.Function):
    """Row chunks of logits, computed again in the backward pass instead of kept."""

    @staticmethod
    def forward(
        ctx: Any,
        visual_ND: Tensor,
        text_MD: Tensor,
        scale: Tensor,
        valid_M: Tensor,
        offset: int,
        group: dist.ProcessGroup | None,
        chunk: int,
    ) -> Tensor:
        num_rows = len(visual_ND)
        rows = slice(offset, offset + num_rows)
        row_lse_N = torch.empty_like(visual_ND[:, 0])
        diagonal_N = torch.empty_like(row_lse_N)
        column_max_M = torch.full_like(text_MD[:, 0], -torch.inf)
        column_sum_M = torch.zeros_like(column_max_M)
        for start in range(0, num_rows, chunk):
            part = slice(start, min(start + chunk, num_rows))
            logits_CM = _logits(visual_ND[part], text_MD, scale, valid_M)
            row_lse_N[part] = logits_CM.logsumexp(1)
            diagonal_N[part] = logits_CM.diagonal(offset + start)[: part.stop - part.start]
            logits_CM.masked_fill_(~valid_M[rows][part][:, None], -torch.inf)
            new_max_M = torch.maximum(column_max_M, logits_CM.amax(0))
            # An invalid column is -inf throughout; 0 in its place keeps inf - inf out.
            pivot_M = torch.where(new_max_M.isfinite(), new_max_M, 0.0)
            column_sum_M = column_sum_M * (column_max_M - pivot_M).exp()
            column_sum_M += (logits_CM - pivot_M).exp().sum(0)
            column_max_M = new_max_M
        if group is not None:
            own_max_M = column_max_M.clone()
            dist.all_reduce(column_max_M, dist.ReduceOp.MAX, group=group)
            pivot_M = torch.where(column_max_M.isfinite(), column_max_M, 0.0)
            column_sum_M = column_sum_M * (own_max_M - pivot_M).exp()
            dist.all_reduce(column_sum_M, group=group)
        column_lse_M = column_max_M + column_sum_M.log()

        own_N = valid_M[rows]
        num_pairs = valid_M.sum()
        terms_N = row_lse_N + column_lse_M[rows] - 2 * diagonal_N
        loss = torch.where(own_N, terms_N, 0.0).sum() / (2 * num_pairs.clamp(min=1))
        ctx.save_for_backward(visual_ND, text_MD, scale, valid_M, row_lse_N, column_lse_M)
        ctx.offset, ctx.chunk = offset, chunk
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        visual_ND, text_MD, scale, valid_M, row_lse_N, column_lse_M = ctx.saved_tensors
        factor = grads[0] / (2 * valid_M.sum().clamp(min=1))
        grad_visual_ND = torch.empty_like(visual_ND)
        grad_scale = torch.zeros_like(scale)
        for start in range(0, len(visual_ND), ctx.chunk):
            part = slice(start, min(start + ctx.chunk, len(visual_ND)))
            cosine_CM = visual_ND[part] @ text_MD.T
            logits_CM = scale * cosine_CM
            # d loss / d logits = P_row + P_column - 2 on the diagonal, invalid rows and columns 0
            slope_CM = (logits_CM - row_lse_N[part][:, None]).exp()
            slope_CM += (logits_CM - column_lse_M).exp()
            slope_CM.diagonal(ctx.offset + start)[: part.stop - part.start].sub_(2)
            own_C = valid_M[ctx.offset + start : ctx.offset + part.stop]
            # masked, not multiplied: an invalid row's or column's log-sum-exp may be -inf
            slope_CM = slope_CM.masked_fill_(~(own_C[:, None] & valid_M), 0.0) * factor
            grad_visual_ND[part] = scale * (slope_CM @ text_MD)
            grad_scale += (slope_CM * cosine_CM).sum()
        return grad_visual_ND, None, grad_scale, None, None, None, None


def _logits(visual_CD: Tensor, text_MD: Tensor, scale: Tensor, valid_M: Tensor) -> Tensor:
    """Scaled cosines, minus infinity in the columns that do not take part."""
    return (scale * (visual_CD @ text_MD.T)).masked_fill_(~valid_M, -torch.inf)
