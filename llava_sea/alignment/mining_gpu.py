"""Steps 1 and 2 of the miner on a GPU: bucket maxima, the best buckets' words, a certificate.

Of each patch the words of the 16 buckets with the largest maxima are scored in float32. That is all
if the 17th maximum, with the screen's error on top, stays under the n-th of these scores: then no
word elsewhere can reach it. Patches without that certificate take 64 buckets, and those still
without it a float32 product with all words.

Buckets have 64 words here: a patch's features stay in registers while its buckets' words are read,
so half as many words cost half as much, and twice the maxima are still few.

Limits: the fused kernels (`mining_triton`) need Triton and CUDA; elsewhere plain torch does the
same, slower, and so it does if the kernels fail their check, with a warning.

Shape letters: M patches, R of them at a time, L left without a certificate, Q words, K buckets,
C chosen buckets, W their words, D joint dimension.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from llava_sea.alignment.mining_bounds import PatchBounds
from llava_sea.alignment.mining_rescore import keep_contenders
from llava_sea.alignment.mining_screen import bucket_maxima
from llava_sea.alignment.mining_words import PreparedWords

logger = logging.getLogger(__name__)

GPU_BUCKET = 64
_CHOSEN = (16, 64)
_ROWS = 4096
_GATHERED = 1 << 28
"""Numbers gathered, or scores made, at a time (1 GiB in float32)."""
_BLOCK = 16_384


class Kernels(NamedTuple):
    """The two heavy operations.

    Attributes:
        maxima: patches and words to the buckets' maxima, ``(R, K)`` float32.
        rescore: patches, words ``(Q, D)`` and buckets ``(R, C)`` to the scores of the buckets'
            words ``(R, C * GPU_BUCKET)`` in float32, ``-inf`` past the last word.
    """

    maxima: Callable[[Tensor, PreparedWords], Tensor]
    rescore: Callable[[Tensor, Tensor, Tensor], Tensor]


def gpu_candidates(
    signed_MD: Tensor,
    words: PreparedWords,
    bounds: PatchBounds,
    top_n: int,
    kernels: Kernels | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the words that can be among a patch's `top_n`; runs on the CPU, too, for the tests.

    Args:
        signed_MD: the patches, float32.
        words: from `prepare_words`.
        bounds: of the patches, for a rounded screen.
        top_n: words kept for a patch.
        kernels: chosen here if None.

    Returns:
        Rows and word ids, as from `bucket_candidates`.
    """
    kernels = kernels or choose_kernels(signed_MD.device)
    rows_C, ids_C = [], []
    for start in range(0, signed_MD.shape[0], _ROWS):
        part = slice(start, start + _ROWS)
        of_part = PatchBounds(bounds.screen_M[part], bounds.output, bounds.rescore_M[part])
        rows, ids = _certified(signed_MD[part], words, of_part, top_n, kernels)
        rows_C.append(rows + start)
        ids_C.append(ids)
    return torch.cat(rows_C), torch.cat(ids_C)


def _certified(
    signed_RD: Tensor, words: PreparedWords, bounds: PatchBounds, top_n: int, kernels: Kernels
) -> tuple[Tensor, Tensor]:
    """Do what the module's text says for one part of the patches."""
    maxima_RK = kernels.maxima(signed_RD, words)
    # No word of a bucket has an exact score above this.
    upper_RK = maxima_RK.add_(2 * bounds.output * maxima_RK.abs()) if bounds.output else maxima_RK
    num_buckets, num_words = upper_RK.shape[1], words.words_QD.shape[0]
    left_L = torch.arange(signed_RD.shape[0], device=signed_RD.device)
    found: list[tuple[Tensor, Tensor]] = []
    cut_L = torch.full_like(bounds.rescore_M, -torch.inf)
    for wanted in _CHOSEN:
        chosen = min(max(wanted, top_n), num_buckets)
        of_left_LK = upper_RK if left_L.shape[0] == upper_RK.shape[0] else upper_RK[left_L]
        best = of_left_LK.topk(min(chosen + 1, num_buckets), dim=1)
        buckets_LC = best.indices[:, :chosen]
        scores_LW = kernels.rescore(signed_RD[left_L], words.words_QD, buckets_LC)
        nth_L = scores_LW.topk(min(top_n, num_words), dim=1).values[:, -1]
        error_L = bounds.rescore_M[left_L]
        certified_L = torch.ones_like(left_L, dtype=torch.bool)
        if chosen < num_buckets:
            certified_L = best.values[:, chosen] + bounds.screen_M[left_L] < nth_L - error_L
        kept_LW = (scores_LW >= (nth_L - 2 * error_L)[:, None]) & certified_L[:, None]
        row, column = (kept_LW & (scores_LW > -torch.inf)).nonzero(as_tuple=True)
        bucket = buckets_LC[row, column // GPU_BUCKET]
        found.append((left_L[row], bucket * GPU_BUCKET + column % GPU_BUCKET))
        cut_L = (nth_L - 2 * error_L)[~certified_L]
        left_L = left_L[~certified_L]
        if not left_L.shape[0]:
            break
    else:
        rows, ids = scan_all_words(
            signed_RD[left_L], words.words_QD, cut_L, bounds.rescore_M[left_L], top_n
        )
        found.append((left_L[rows], ids))
    return torch.cat([rows for rows, _ in found]), torch.cat([ids for _, ids in found])


def scan_all_words(
    signed_LD: Tensor, words_QD: Tensor, cut_L: Tensor, error_L: Tensor, top_n: int
) -> tuple[Tensor, Tensor]:
    """Score patches against all words in float32 and return those that can be in the `top_n`.

    Args:
        signed_LD: the patches, float32.
        words_QD: the words.
        cut_L: a float32 score that every word of a patch's `top_n` reaches.
        error_L: of a float32 score.
        top_n: words kept for a patch.

    Returns:
        Rows and word ids.
    """
    num_words = words_QD.shape[0]
    step = max(1, _GATHERED // (2 * num_words))  # should all words be equal, all are kept
    found = []
    for start in range(0, signed_LD.shape[0], step):
        part = slice(start, start + step)
        rows, ids, scores = [], [], []
        for first in range(0, num_words, 16 * _BLOCK):
            words_BD = words_QD[first : first + 16 * _BLOCK].float()
            scores_LB = signed_LD[part] @ words_BD.T
            row, column = (scores_LB >= cut_L[part][:, None]).nonzero(as_tuple=True)
            rows.append(row)
            ids.append(column + first)
            scores.append(scores_LB[row, column])
        kept_rows, kept_ids = keep_contenders(
            torch.cat(rows), torch.cat(ids), torch.cat(scores), error_L[part], top_n
        )
        found.append((kept_rows + start, kept_ids))
    return torch.cat([rows for rows, _ in found]), torch.cat([ids for _, ids in found])


def plain_maxima(signed_RD: Tensor, words: PreparedWords) -> Tensor:
    """Return the buckets' maxima of a bfloat16 product, block by block."""
    return bucket_maxima(signed_RD, words, True, _BLOCK, GPU_BUCKET)


def plain_rescore(signed_RD: Tensor, words_QD: Tensor, buckets_RC: Tensor) -> Tensor:
    """Gather the buckets' words and score them, some patches at a time."""
    within = torch.arange(GPU_BUCKET, device=words_QD.device)
    ids_RW = (buckets_RC[..., None] * GPU_BUCKET + within).flatten(1)
    scores_RW = signed_RD.new_empty(ids_RW.shape)
    last = words_QD.shape[0] - 1
    step = max(1, _GATHERED // max(1, ids_RW.shape[1] * words_QD.shape[1]))
    for start in range(0, signed_RD.shape[0], step):
        part = slice(start, start + step)
        words_RWD = words_QD[ids_RW[part].clamp(max=last)].float()
        scores_RW[part] = torch.bmm(words_RWD, signed_RD[part, :, None])[..., 0]
    return scores_RW.masked_fill_(ids_RW > last, -torch.inf)


PLAIN = Kernels(plain_maxima, plain_rescore)


@functools.cache
def choose_kernels(device: torch.device) -> Kernels:
    """Return the fused kernels if Triton is there and they agree with plain torch, else `PLAIN`.

    Checked once per process and device, on a small input.
    """
    if device.type != "cuda":
        return PLAIN
    try:
        from llava_sea.alignment.mining_triton import fused_maxima, fused_rescore

        fused = Kernels(fused_maxima, fused_rescore)
        check_kernels(fused, device)
    except Exception as error:  # whatever a compiler throws: plain torch is slower, not wrong
        logger.warning(
            "mining uses plain torch, slower, with the same result: the fused kernels do not work "
            "here (%s: %s)",
            type(error).__name__,
            error,
        )
        return PLAIN
    return fused


def check_kernels(kernels: Kernels, device: torch.device) -> None:
    """Compare kernels with plain float32 on a small odd-sized input.

    Raises:
        AssertionError: if they differ by more than rounding allows.
    """
    from llava_sea.alignment.mining_words import prepare_words

    rng = torch.Generator().manual_seed(0)
    patches_RD = torch.nn.functional.normalize(torch.randn(131, 96, generator=rng), dim=1)
    words_QD = torch.nn.functional.normalize(torch.randn(1000, 96, generator=rng), dim=1)
    patches_RD, words = patches_RD.to(device), prepare_words(words_QD.to(device))
    buckets_RC = torch.arange(131, device=device)[:, None].add(torch.arange(3, device=device)) % 16
    rescored_RW = kernels.rescore(patches_RD, words.words_QD, buckets_RC)
    expected_RW = plain_rescore(patches_RD, words.words_QD, buckets_RC)
    maxima_RK = kernels.maxima(patches_RD, words)
    scores_RQ = patches_RD.bfloat16().float() @ words.words_QD.bfloat16().float().T
    padded_RQ = torch.nn.functional.pad(scores_RQ, (0, -1000 % GPU_BUCKET), value=-torch.inf)
    expected_RK = padded_RQ.unflatten(1, (-1, GPU_BUCKET)).amax(-1)
    torch.testing.assert_close(rescored_RW, expected_RW, atol=1e-5, rtol=0, msg=_differ("rescore"))
    tolerance = 1e-5 if device.type == "cuda" else 1e-2
    torch.testing.assert_close(
        maxima_RK, expected_RK, atol=tolerance, rtol=0, msg=_differ("maxima")
    )


def _differ(what: str) -> str:
    return f"the kernel for {what} differs from plain torch"
