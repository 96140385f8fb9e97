"""How much more often an image's labels occur in its own caption than in other captions.

The second number is the mean over *all* other captions of the sample, i.e. over every cyclic shift
of the captions at once. Their ratio is the lift: 1 for labels that know nothing of the image.
Beside it: how many labels are left, and hubs, the few words that are labels everywhere.

Limits: it hears of the image alone. Labels that name the right things in the wrong place have the
same lift (`place.py` hears of the place).

Shape letters: I images, P patches, Q words, N labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]

_COSINE_WORDS = 4096  # words, evenly spaced over the list, for the share of negative cosines


@dataclass(frozen=True)
class LiftMeasure:
    """How labels of one kind fare on the sample; rates are means over images."""

    sign: int
    own_rate: float  # share of an image's labels that occur in its own caption
    other_rate: float  # ... in another image's caption, on average
    lift: float  # own_rate / other_rate; nan if no label occurs anywhere
    lift_error: float  # its standard error over images
    clear: float  # (own_rate - other_rate) in standard errors
    kept: float  # share of the top-n entries with a score above 0
    hub_cover: float  # share of patches with a label from the commonest 1 % of the words
    hubs: tuple[str, ...]  # the commonest labels


def caption_rates(
    labels_IPN: NDArray[np.integer], numbers: Sequence[int], occurrences: list[NDArray[np.int64]]
) -> tuple[Floats, Floats]:
    """Return the share of each image's labels in its own caption, and in another on average.

    Args:
        labels_IPN: word ids; -1 is a dropped label.
        numbers: which of the captions are the images' own.
        occurrences: ids of the words in each caption of the sample, from `find_occurrences`.
    """
    length = 1 + max(int(labels_IPN.max()), *(ids.max(initial=-1) for ids in occurrences))
    count_Q = np.bincount(np.concatenate(occurrences), minlength=length)
    others = max(1, len(occurrences) - 1)
    own_I, other_I = np.zeros(len(labels_IPN)), np.zeros(len(labels_IPN))
    for i, (number, ids_PN) in enumerate(zip(numbers, labels_IPN, strict=True)):
        kept = ids_PN[ids_PN >= 0]
        if len(kept):
            own = np.isin(kept, occurrences[number])
            own_I[i], other_I[i] = own.mean(), ((count_Q[kept] - own) / others).mean()
    return own_I, other_I


def measure_lift(
    sign: int, labels_IPN: NDArray[np.integer], own_I: Floats, other_I: Floats, words: Sequence[str]
) -> LiftMeasure:
    """Sum up at least two images, with their rates from `caption_rates`."""
    own, other = float(own_I.mean()), float(other_I.mean())
    root = math.sqrt(len(own_I))
    lift = own / other if other else (math.inf if own else math.nan)
    error = math.nan
    if other:
        error = float((own_I - lift * other_I).std(ddof=1)) / root / other
    kept = labels_IPN >= 0
    count_Q = np.bincount(labels_IPN[kept], minlength=len(words))
    order_Q = np.argsort(-count_Q, kind="stable")
    is_hub_Q = np.zeros(len(words), bool)
    is_hub_Q[order_Q[: max(1, len(words) // 100)]] = True
    return LiftMeasure(
        sign=sign,
        own_rate=own,
        other_rate=other,
        lift=lift,
        lift_error=error,
        clear=in_errors(own - other, float((own_I - other_I).std(ddof=1)) / root),
        kept=float(kept.mean()),
        hub_cover=float((is_hub_Q[labels_IPN] & kept).any(-1).mean()),
        hubs=tuple(words[i] for i in order_Q[:3] if count_Q[i]),
    )


def spread_words(words_QD: Tensor) -> Tensor:
    """Take at most some thousand words, evenly spaced over the list."""
    return words_QD[:: math.ceil(len(words_QD) / _COSINE_WORDS)]


def in_errors(difference: float, error: float) -> float:
    """Return a difference in standard errors; infinite if there is no error."""
    if error:
        return difference / error
    return math.copysign(math.inf, difference) if difference else 0.0


def finite(value: Any) -> Any:
    """Round a tree of numbers for JSON; NaN and infinity become None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
