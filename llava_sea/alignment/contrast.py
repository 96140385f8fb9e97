"""Both softmaxes of eq. 11, patch to word and word to patch, over blocks of rows of logits.

One autograd function. The logits are kept and turned in place into the loss's slopes (2 matrix
products, as autograd, and N x M floats), or made again in the backward pass (3 products and one
block). Norms are factors of the rows and columns: nothing of size N x D is made but the gradient.

With a process group the columns' denominators are put together by two all-reduces of a float32 a
column, 8 M bytes: no visual token and no target is sent. No second derivatives.

Shape letters: N own patches (rows), M words of all ranks (columns), D hidden size, C rows of a
block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.linalg import vector_norm

KEEP_AT_MOST = 1 << 30
"""Bytes of logits that are kept rather than made again: 16,384 pairs against as many words."""
ROWS = 512
"""Rows of a block: enough for a matrix product at full speed."""
_SMALLEST_NORM = 1e-12  # of torch.nn.functional.normalize


class Targets(NamedTuple):
    """The terms of the loss: half of ``sum_n to_word * -log p + to_patch * -log q``."""

    column_N: Tensor
    """The column of each row's target, int64."""
    to_word: Tensor
    """Weight of the rows' softmax p, a scalar."""
    to_patch_N: Tensor
    """Weights of the columns' softmax q."""
    to_patch_M: Tensor
    """Their sums over each column, over all ranks."""


def contrast(
    visual_ND: Tensor,
    text_MD: Tensor,
    log_scale: Tensor,
    targets: Targets,
    *,
    group: dist.ProcessGroup | None = None,
    chunk: int = ROWS,
    keep_logits: bool | None = None,
) -> Tensor:
    """Return this process's share of the loss, a float32 scalar.

    Args:
        visual_ND: visual tokens, not normalised.
        text_MD: the words' embeddings, not normalised, the same on all ranks.
        log_scale: the log of the logit scale, a scalar, within its limit.
        targets: which words belong to which patch.
        group: the processes whose rows share the columns.
        chunk: rows of logits worked on at a time.
        keep_logits: hold all of them; default: if they are at most `KEEP_AT_MOST`.
    """
    if keep_logits is None:
        keep_logits = keeps_logits(len(visual_ND), len(text_MD))
    with torch.autocast(visual_ND.device.type, enabled=False):
        loss: Tensor = _Contrast.apply(
            visual_ND, log_scale, text_MD, targets, group, chunk, keep_logits
        )
    return loss


def keeps_logits(num_rows: int, num_columns: int) -> bool:
    """Say whether logits of this size are kept where the caller does not choose."""
    return 4 * num_rows * num_columns <= KEEP_AT_MOST


class _Contrast(torch.autograd.Function):
    """The loss; of the visual side, both passes over the logits."""

    @staticmethod
    def forward(
        ctx: Any,
        visual_ND: Tensor,
        log_scale: Tensor,
        text_MD: Tensor,
        targets: Targets,
        group: dist.ProcessGroup | None,
        chunk: int,
        keep_logits: bool,
    ) -> Tensor:
        blocks = _Blocks(visual_ND, text_MD, log_scale, chunk, keep_logits)
        row_lse_N, column_lse_M, target_N = _log_sum_exps(blocks, targets, group)
        loss = targets.to_word * (row_lse_N - target_N)
        loss += targets.to_patch_N * (column_lse_M[targets.column_N] - target_N)
        ctx.save_for_backward(visual_ND, log_scale, text_MD, row_lse_N, column_lse_M)
        ctx.targets, ctx.chunk = targets, chunk
        ctx.logits = blocks.room_CM if keep_logits else None
        return loss.sum() / 2

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        visual_ND, log_scale, text_MD, row_lse_N, column_lse_M = ctx.saved_tensors
        blocks = _Blocks(visual_ND, text_MD, log_scale, ctx.chunk, ctx.logits)
        ctx.logits = None  # written over from here on: another backward pass makes them again
        grad_ND, grad_log_scale = _gradients(
            blocks, ctx.targets, row_lse_N, column_lse_M, grads[0].float()
        )
        grad_log_scale = grad_log_scale.to(log_scale.dtype)
        return grad_ND.to(visual_ND.dtype), grad_log_scale, None, None, None, None, None


class _Blocks:
    """Blocks of rows of logits for one pass over them."""

    def __init__(
        self,
        visual_ND: Tensor,
        text_MD: Tensor,
        log_scale: Tensor,
        chunk: int,
        keep: bool | Tensor | None,
    ) -> None:
        """`keep` is whether to hold all logits, or those that are held."""
        self.visual_ND, self.text_MD = visual_ND, text_MD.float()
        self.chunk = chunk
        norm_M = vector_norm(self.text_MD, dim=1).clamp(min=_SMALLEST_NORM)
        self.factor_M = log_scale.float().exp() / norm_M
        self.norm_N = vector_norm(visual_ND, dim=1, dtype=torch.float32)
        rows, columns = len(visual_ND), len(text_MD)
        self.scratch_CM = self.text_MD.new_empty(min(chunk, rows), columns)
        self.made = isinstance(keep, Tensor)
        self.all = self.made or bool(keep)
        if isinstance(keep, Tensor):
            self.room_CM = keep
        else:
            self.room_CM = self.text_MD.new_empty(rows if keep else min(chunk, rows), columns)

    def __iter__(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Give each block's rows, its logits and scratch of their size."""
        for start in range(0, len(self.visual_ND), self.chunk):
            part = slice(start, min(start + self.chunk, len(self.visual_ND)))
            room_CM = self.room_CM[part] if self.all else self.room_CM[: part.stop - start]
            if not self.made:
                torch.mm(self.unit(part), self.text_MD.T, out=room_CM).mul_(self.factor_M)
            yield part, room_CM, self.scratch_CM[: part.stop - start]

    def unit(self, part: slice) -> Tensor:
        """Return normalised rows, float32 ``(C, D)``."""
        norm_C = self.norm_N[part].clamp(min=_SMALLEST_NORM)
        return self.visual_ND[part].float() / norm_C[:, None]


def _log_sum_exps(
    blocks: _Blocks, targets: Targets, group: dist.ProcessGroup | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-sum-exps of the rows and, over all ranks, of the columns; the targets' logits."""
    row_lse_N = torch.empty_like(blocks.norm_N)
    target_N = torch.empty_like(blocks.norm_N)
    column_max_M = torch.full_like(blocks.factor_M, -torch.inf)
    column_sum_M = torch.zeros_like(column_max_M)
    for part, logits_CM, scratch_CM in blocks:
        row_max_C = logits_CM.amax(1)
        torch.sub(logits_CM, row_max_C[:, None], out=scratch_CM)
        row_lse_N[part] = scratch_CM.exp_().sum(1).log() + row_max_C
        target_N[part] = logits_CM.gather(1, targets.column_N[part, None])[:, 0]
        before_M = column_max_M
        column_max_M = torch.maximum(before_M, logits_CM.amax(0))
        torch.sub(logits_CM, column_max_M, out=scratch_CM)
        column_sum_M = column_sum_M * (before_M - column_max_M).exp() + scratch_CM.exp_().sum(0)
    if group is not None:
        own_max_M = column_max_M.clone()
        dist.all_reduce(column_max_M, dist.ReduceOp.MAX, group=group)
        column_sum_M = column_sum_M * (own_max_M - column_max_M).exp()
        dist.all_reduce(column_sum_M, group=group)
    return row_lse_N, column_max_M + column_sum_M.log(), target_N


def _gradients(
    blocks: _Blocks,
    targets: Targets,
    row_lse_N: Tensor,
    column_lse_M: Tensor,
    grad_loss: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the gradients with respect to the visual tokens and the log of the scale.

    The logits are written over. d loss / d logits = (to_word * p + to_patch * q - the targets'
    weights) / 2, and a cosine moves its row only across the row's direction.
    """
    # The softmaxes times their weights; a weight of 0 makes all of them 0.
    row_shift_N = row_lse_N - targets.to_word.log()
    column_shift_M = torch.where(
        targets.to_patch_M > 0, column_lse_M - targets.to_patch_M.log(), torch.inf
    )
    factor_M = grad_loss / 2 * blocks.factor_M
    wanted_N = targets.to_word + targets.to_patch_N
    grad_ND = torch.empty_like(blocks.visual_ND, dtype=torch.float32)
    grad_log_scale = torch.zeros_like(row_lse_N[:1]).sum()
    for part, slope_CM, scratch_CM in blocks:
        torch.sub(slope_CM, row_shift_N[part][:, None], out=scratch_CM).exp_()
        slope_CM.sub_(column_shift_M).exp_().add_(scratch_CM)
        slope_CM.scatter_add_(1, targets.column_N[part, None], -wanted_N[part, None])
        slope_CM.mul_(factor_M)
        unit_CD = blocks.unit(part)
        grad_CD = torch.mm(slope_CM, blocks.text_MD, out=grad_ND[part])
        along_C = torch.linalg.vecdot(unit_CD, grad_CD)  # = sum of slope times logit
        grad_log_scale += along_C.sum()
        norm_C = blocks.norm_N[part]
        # Below the smallest norm it is a constant factor, and nothing is taken away.
        along_C = torch.where(norm_C >= _SMALLEST_NORM, along_C, 0.0)
        grad_CD.addcmul_(unit_CD, along_C[:, None], value=-1)
        grad_CD.div_(norm_C.clamp(min=_SMALLEST_NORM)[:, None])
    return grad_ND, grad_log_scale
