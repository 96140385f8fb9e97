"""How much more often a picture's labels occur in its own caption than in other captions.

The second number is the mean over *all* other captions of the sample, i.e. over every cyclic shift
of the captions at once. Their ratio is the lift: 1 for labels that know nothing of the picture.
Beside it: how many labels are left, and hubs, the few words that are labels everywhere.

Limits: it hears of the picture alone. Labels that name the right things in the wrong place have the
same lift (`place.py` hears of the place).

Shape letters: I pictures, P patches, Q words, N labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

_COSINE_WORDS = 4096  # words, evenly spaced over the list, for the share of negative cosines


@dataclass(frozen=True)
class LiftMeasure:
    """What labels of one kind do on the sample; rates are means over pictures."""

    sign: int
    own_rate: float  # share of a picture's labels that occur in its own caption
    other_rate: float  # ... in another picture's caption, on average
    lift: float  # own_rate / other_rate; nan if no label occurs anywhere
    lift_error: float  # its standard error over pictures
    clear: float  # (own_rate - other_rate) in standard errors
    kept: float  # share of the top-n entries with a score above 0
    hub_cover: float  # share of patches with a label from the commonest 1 % of the words
    hubs: tuple[str, ...]  # the commonest labels


class LiftTally:
    """Counts of one sign, picture by picture."""

    def __init__(
        self, sign: int, count_Q: NDArray[np.int64], occurrences: list[NDArray[np.int64]]
    ) -> None:
        self.sign, self.count_Q, self.occurrences = sign, count_Q, occurrences
        self.own: list[float] = []
        self.other: list[float] = []
        self.labels: list[NDArray[np.int32]] = []

    def add(self, number: int, ids_PN: NDArray[np.int64]) -> None:
        """Take in one picture's labels; -1 is a dropped one."""
        self.labels.append(ids_PN.astype(np.int32))
        kept = ids_PN[ids_PN >= 0]
        own = np.isin(kept, self.occurrences[number])
        others = max(1, len(self.occurrences) - 1)
        self.own.append(own.mean() if len(kept) else 0.0)
        self.other.append(((self.count_Q[kept] - own) / others).mean() if len(kept) else 0.0)

    def measure(self, words: Sequence[str]) -> LiftMeasure:
        """Sum up the pictures; at least two of them."""
        own_I, other_I = np.array(self.own), np.array(self.other)
        own, other = float(own_I.mean()), float(other_I.mean())
        root = math.sqrt(len(own_I))
        spread = float((own_I - other_I).std(ddof=1)) / root
        lift = own / other if other else (math.inf if own else math.nan)
        error = math.nan
        if other:
            error = float((own_I - lift * other_I).std(ddof=1)) / root / other
        labels_IPN = np.stack(self.labels)
        kept = labels_IPN >= 0
        count_Q = np.bincount(labels_IPN[kept], minlength=len(words))
        order_Q = np.argsort(-count_Q, kind="stable")
        is_hub_Q = np.zeros(len(words), bool)
        is_hub_Q[order_Q[: max(1, len(words) // 100)]] = True
        cover = (is_hub_Q[labels_IPN] & kept).any(-1).mean()
        hubs = tuple(words[i] for i in order_Q[:3] if count_Q[i])
        return LiftMeasure(
            sign=self.sign,
            own_rate=own,
            other_rate=other,
            lift=lift,
            lift_error=error,
            clear=in_errors(own - other, spread),
            kept=float(kept.mean()),
            hub_cover=float(cover),
            hubs=hubs,
        )

    def log_lift(self) -> tuple[float, NDArray[np.float64]] | None:
        """The log of the lift and each picture's pull on it, or None where it is not finite."""
        own_I, other_I = np.array(self.own), np.array(self.other)
        own, other = float(own_I.mean()), float(other_I.mean())
        if own == 0 or other == 0:
            return None
        return math.log(own / other), own_I / own - other_I / other


def spread_words(words_QD: Tensor) -> Tensor:
    """Take at most some thousand words, evenly spaced over the list."""
    return words_QD[:: math.ceil(len(words_QD) / _COSINE_WORDS)]


def in_errors(difference: float, error: float) -> float:
    """Return a difference in standard errors; infinite if there is no error."""
    if error:
        return difference / error
    return math.copysign(math.inf, difference) if difference else 0.0


def finite(value: Any) -> Any:
    """Round a tree of numbers for JSON; what is not finite becomes None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
