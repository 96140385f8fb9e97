"""How far a screened or rescored product can be from the exact one: why the miner is exact.

For a patch p and a word w, rounded to p' and w' before a product that adds up in
float32,

    |computed - p.w| <= |p - p'| |w| + |p'| |w - w'| + D u |p'| |w'|,

by Cauchy-Schwarz for the first two terms; the third holds for any order of the D additions, fused
or not, with u = 2^-24 where each is rounded to nearest. Tensor cores truncate: u is 2^-22 there.
The first two terms are measured (row by row for patches, the largest for words), since the worst
case is twice as wide. All is made 1 % wider for the bound's own arithmetic.

Shape letters: M patches, Q words, D joint dimension, R rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

_CHUNK = {"cpu": 1024, "cuda": 262_144}
"""Words measured at a time: they stay in a core's cache, or fill a GPU."""
_WIDER = 1.01
_UNIT = {"cpu": 2.0**-24, "cuda": 2.0**-22}
_SMALLEST = 2.0**-126
"""Numbers below it may be taken for zero."""
_TINY, _SCALE = 1e-12, 2.0**-100
"""Rows shorter than the first are divided by the second before their numbers are squared."""


class PreparedWords(NamedTuple):
    """A word list with what bounds the rounding error of its products."""

    words_QD: Tensor
    """The features, float32 or narrower."""
    longest: float
    """The largest length of a row."""
    rounding: float | None
    """The largest length of what rounding a row to bfloat16 takes away; None: not measured."""
    rounded_QD: Tensor | None
    """The bfloat16 copy; None on the CPU, where blocks are rounded as they are used."""


class PatchBounds(NamedTuple):
    """For each patch, how far its products can be from the exact ones."""

    screen_M: Tensor
    """Of the screen, its output's rounding aside."""
    output: float
    """The screen's output is rounded by at most this share of itself."""
    rescore_M: Tensor
    """Of a product in float32."""


@torch.no_grad()
def prepare_words(words_QD: Tensor, rounded: bool = True) -> PreparedWords:
    """Measure a word list once for all calls of `mine_top_words`, and round it if it is on a GPU.

    The words are kept, not copied (float64 becomes float32): prepare them again if they change. On
    a GPU a bfloat16 copy stays resident (4M x 768: 6.1 GB beside the 12.3 GB in float32). What a
    bfloat16 screen needs is measured if `rounded`.

    Raises:
        ValueError: if a feature is not finite.
    """
    if words_QD.dtype == torch.float64:
        words_QD = words_QD.float()
    rounded_QD = None
    if words_QD.is_cuda and rounded:
        rounded_QD = torch.empty_like(words_QD, dtype=torch.bfloat16)
    size = by_device(_CHUNK, words_QD)
    longest = lost = words_QD.new_zeros((), dtype=torch.float32)
    for start in range(0, words_QD.shape[0], size):
        chunk_CD = words_QD[start : start + size].float()
        longest = torch.maximum(longest, row_lengths(chunk_CD).max())
        if not rounded:
            continue
        short_CD = chunk_CD.bfloat16()
        if rounded_QD is not None:
            rounded_QD[start : start + size] = short_CD
        lost = torch.maximum(lost, row_lengths(short_CD.float().sub_(chunk_CD)).max())
    _require_finite(lost + longest, words_QD, "word")
    return PreparedWords(words_QD, float(longest), float(lost) if rounded else None, rounded_QD)


def patch_bounds(signed_MD: Tensor, words: PreparedWords, rounded: bool) -> PatchBounds:
    """Bound the errors of a patch's products with these words, as the module's text says.

    If the screen's operands are `rounded` to bfloat16, its output is, too, on the CPU, and stays
    float32 on CUDA.
    """
    unit = signed_MD.shape[1] * by_device(_UNIT, signed_MD)
    length_M = row_lengths(signed_MD)
    # Four times as much as the exact product can be: what is rounded stays finite, too.
    _require_finite(4 * length_M * words.longest, signed_MD, "patch")
    tiny_M = signed_MD.shape[1] * _SMALLEST * (1 + words.longest + length_M)
    rescore_M = _WIDER * unit * length_M * words.longest + tiny_M
    if not rounded:
        return PatchBounds(rescore_M, 0.0, rescore_M)
    assert words.rounding is not None, "the words were prepared without a bfloat16 screen's bound"
    lost_M = row_lengths(signed_MD - signed_MD.bfloat16().float())
    kept_M, longest = length_M + lost_M, words.longest + words.rounding
    screen_M = lost_M * words.longest + kept_M * words.rounding + unit * kept_M * longest
    output = 0.0 if signed_MD.is_cuda else 2.0**-8
    return PatchBounds(_WIDER * screen_M + tiny_M, output, rescore_M)


def screen_cuts(nth_M: Tensor, bounds: PatchBounds) -> tuple[Tensor, Tensor]:
    """From the n-th largest screened value of a patch (of different words) bound two others.

    The n-th exact score from below, and the screened value of every word that reaches it.
    """
    low_M = nth_M - bounds.output * nth_M.abs() - bounds.screen_M
    cut_M = low_M - bounds.screen_M
    return low_M, cut_M - bounds.output * cut_M.abs()


def row_lengths(rows_RD: Tensor) -> Tensor:
    """Return the length of each row; of tiny rows, too, whose squares are 0 in float32."""
    length_R = torch.linalg.vector_norm(rows_RD, dim=1)
    tiny_R = length_R < _TINY
    if bool(tiny_R.any()):
        length_R[tiny_R] = torch.linalg.vector_norm(rows_RD[tiny_R] / _SCALE, dim=1) * _SCALE
    return length_R


def _require_finite(summary: Tensor, rows_RD: Tensor, what: str) -> None:
    """Raise a ValueError that names the first row that is not finite, if `summary` is not."""
    if not bool(summary.isfinite().all()):
        bad_R = ~rows_RD.isfinite().all(dim=1)
        row = int(bad_R.nonzero()[0]) if bool(bad_R.any()) else int(rows_RD.abs().amax(1).argmax())
        raise ValueError(f"the features of {what} {row} are not finite, or overflow")


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Multiply float32 as float32 inside, whatever `set_float32_matmul_precision` allows."""
    backend: Any = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    before = backend.matmul.fp32_precision
    backend.matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        backend.matmul.fp32_precision = before


def by_device(sizes: dict[str, Any], tensor: Tensor) -> Any:
    """Choose between the settings of a CPU and of a GPU."""
    return sizes["cpu" if tensor.device.type == "cpu" else "cuda"]
