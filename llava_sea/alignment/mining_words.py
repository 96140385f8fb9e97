"""What the miner knows of a word list before it sees a patch: lengths, rounding, the GPU's copy.

Made once and passed to every `mine_top_words`, it saves a pass over the words per call, and on CUDA
the bfloat16 copy stays resident (4M x 768: 6.1 GB beside the 12.3 GB in float32).

Shape letters: Q words, D joint dimension.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_CHUNK = {"cpu": 1024, "cuda": 262_144}
"""Words looked at a time: they stay in a core's cache, or fill a GPU."""

_TINY, _SCALE = 1e-12, 2.0**-100
"""Rows shorter than the first are divided by the second before their numbers are squared."""


class PreparedWords(NamedTuple):
    """A word list with what bounds the rounding error of its products.

    Attributes:
        words_QD: the features, float32 or narrower.
        longest: the largest length of a row.
        rounding: the largest length of what rounding a row to bfloat16 takes away; None
            if it was not measured.
        rounded_QD: the bfloat16 copy; None on the CPU, where blocks are rounded as they are used.
    """

    words_QD: Tensor
    longest: float
    rounding: float | None
    rounded_QD: Tensor | None


@torch.no_grad()
def prepare_words(words_QD: Tensor, rounded: bool = True) -> PreparedWords:
    """Measure a word list for `mine_top_words`, and round it if it is on a GPU.

    Args:
        words_QD: word features, ``(Q, D)``; kept, not copied (float64 becomes float32). Changing
            them afterwards makes the miner's results wrong: prepare them again.
        rounded: measure what a bfloat16 screen needs, too.

    Raises:
        ValueError: if a feature is not finite.
    """
    if words_QD.dtype == torch.float64:
        words_QD = words_QD.float()
    on_gpu = words_QD.is_cuda
    rounded_QD = None
    if on_gpu and rounded:
        rounded_QD = torch.empty_like(words_QD, dtype=torch.bfloat16)
    size = _CHUNK["cuda" if on_gpu else "cpu"]
    longest = lost = words_QD.new_zeros((), dtype=torch.float32)
    for start in range(0, words_QD.shape[0], size):
        chunk_CD = words_QD[start : start + size].float()
        longest = torch.maximum(longest, row_lengths(chunk_CD).max())
        if not rounded:
            continue
        short_CD = chunk_CD.bfloat16()
        if rounded_QD is not None:
            rounded_QD[start : start + size] = short_CD
        lost_CD = short_CD.float().sub_(chunk_CD)
        lost = torch.maximum(lost, row_lengths(lost_CD).max())
    require_finite(lost + longest, words_QD, "word")
    return PreparedWords(words_QD, float(longest), float(lost) if rounded else None, rounded_QD)


def row_lengths(rows_RD: Tensor) -> Tensor:
    """Return the length of each row; of tiny rows, too, whose squares are 0 in float32."""
    length_R = torch.linalg.vector_norm(rows_RD, dim=1)
    tiny_R = length_R < _TINY
    if bool(tiny_R.any()):
        length_R[tiny_R] = torch.linalg.vector_norm(rows_RD[tiny_R] / _SCALE, dim=1) * _SCALE
    return length_R


def require_finite(summary: Tensor, rows_RD: Tensor, what: str) -> None:
    """Raise a ValueError that names the first row that is not finite, if `summary` is not."""
    if not bool(summary.isfinite().all()):
        bad_R = ~rows_RD.isfinite().all(dim=1)
        row = int(bad_R.nonzero()[0]) if bool(bad_R.any()) else int(rows_RD.abs().amax(1).argmax())
        raise ValueError(f"the features of {what} {row} are not finite, or overflow")
