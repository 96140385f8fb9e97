"""How far a screened or rescored product can be from the exact one: what makes the miner exact.

For a patch p and a word w, rounded to p' and w' before a product that adds up in float32,

    |computed - p.w| <= |p - p'| |w| + |p'| |w - w'| + D u |p'| |w'|,

by Cauchy-Schwarz for the first two terms; the third holds for any order of the D additions, fused
or not, with u = 2^-24 where each is rounded to nearest. Tensor cores cut digits off instead: u is
2^-22 there. The first two are measured (row by row for patches, the largest for words), not the
worst case, which is twice as wide. All is made 1 % wider than that for the bound's own arithmetic.

Shape letters: M patches, Q words, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llava_sea.alignment.mining_words import PreparedWords, require_finite, row_lengths

_WIDER = 1.01
_UNIT = {"cpu": 2.0**-24, "cuda": 2.0**-22}
_SMALLEST = 2.0**-126
"""Numbers below it may be taken for zero."""


class PatchBounds(NamedTuple):
    """For each patch, how far its products can be from the exact ones.

    Attributes:
        screen_M: of the screen, its output's rounding aside.
        output: the screen's output is rounded by at most this share of itself.
        rescore_M: of a product in float32.
    """

    screen_M: Tensor
    output: float
    rescore_M: Tensor


def patch_bounds(signed_MD: Tensor, words: PreparedWords, rounded: bool) -> PatchBounds:
    """Bound the errors of a patch's products with these words.

    Args:
        signed_MD: the patches, float32.
        words: from `prepare_words`.
        rounded: whether the screen's operands are rounded to bfloat16; its output is, too, on the
            CPU, and stays float32 on CUDA.

    Raises:
        ValueError: if a patch is not finite.
    """
    kind = signed_MD.device.type
    unit = signed_MD.shape[1] * _UNIT.get(kind, _UNIT["cuda"])
    length_M = row_lengths(signed_MD)
    # Four times as much as the exact product can be: what is rounded stays finite, too.
    require_finite(4 * length_M * words.longest, signed_MD, "patch")
    tiny_M = signed_MD.shape[1] * _SMALLEST * (1 + words.longest + length_M)
    rescore_M = _WIDER * unit * length_M * words.longest + tiny_M
    if not rounded or words.rounding is None:
        assert not rounded, "the words were prepared without what rounding takes away"
        return PatchBounds(rescore_M, 0.0, rescore_M)
    lost_M = row_lengths(signed_MD - signed_MD.bfloat16().float())
    kept_M, longest = length_M + lost_M, words.longest + words.rounding
    screen_M = lost_M * words.longest + kept_M * words.rounding + unit * kept_M * longest
    return PatchBounds(_WIDER * screen_M + tiny_M, 2.0**-8 if kind == "cpu" else 0.0, rescore_M)


def screen_cuts(nth_M: Tensor, bounds: PatchBounds) -> tuple[Tensor, Tensor]:
    """Turn a screened value that n words reach into what a top word must reach.

    Args:
        nth_M: the n-th largest of a patch's screened values (of different words).
        bounds: the patches'.

    Returns:
        A lower bound on the n-th exact score, and on the screened value of every word that reaches
        it; ``(M,)`` each.
    """
    low_M = nth_M - bounds.output * nth_M.abs() - bounds.screen_M
    cut_M = low_M - bounds.screen_M
    return low_M, cut_M - bounds.output * cut_M.abs()


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Multiply float32 as float32 inside, whatever `set_float32_matmul_precision` allows."""
    backend: Any = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    settings: Any = getattr(backend, "matmul", None)
    if hasattr(settings, "fp32_precision"):  # torch >= 2.9
        before = settings.fp32_precision
        settings.fp32_precision = "ieee"
        try:
            yield
        finally:
            settings.fp32_precision = before
        return
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
