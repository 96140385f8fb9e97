"""Which labels are best? A choice that needs no labels of patches, so that real data can have it.

    features, sign, centre   the highest place recall (`place.py`), less three standard errors, at
                             the n where it is highest
    n                        of those, the highest place lift

Recall first: on the miniature world caption lift, and place lift to a lesser degree, is led by the
background, or by a few labels that nearly never occur; recall counts every word of a caption the
same. It must fall with n, for a label's chance is shared among n: so n is chosen by place lift,
which rises as long as more words bring more right ones.

Where the truth is known, `agreement_with_truth` says how well each measure would have chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from llava_sea.labels.quality_rows import Row

ERRORS = 3.0  # standard errors taken off a recall; the best of a hundred rows is 2 by luck alone

MEASURES: dict[str, Callable[[Row], float]] = {
    "caption lift": lambda row: row.lift.lift,
    "local": lambda row: row.agreement.local,
    "place lift": lambda row: row.place.lift,
    "place recall": lambda row: row.place.recall,
}


def recall_bound(row: Row) -> float:
    """Place recall less three standard errors; -inf if it was not measured."""
    bound = row.place.recall - ERRORS * row.place.recall_error
    return bound if math.isfinite(bound) else -math.inf


def choose(rows: Sequence[Row]) -> Row | None:
    """Return the best row, or None if no label is clearly in its place anywhere."""
    best = max(rows, key=recall_bound)
    if recall_bound(best) <= 0:
        return None
    return best_n([row for row in rows if row.kind == best.kind])


def best_n(rows: Sequence[Row]) -> Row:
    """Of rows that differ in n alone return the one with the highest place lift."""
    return max(rows, key=lambda row: -math.inf if math.isnan(row.place.lift) else row.place.lift)


def agreement_with_truth(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return Spearman's rank correlation of every measure with the sampled precision.

    Over all rows it is flattered by the wrong sign, which is easily told: see one sign alone too.

    Args:
        rows: measured with the truth.

    Returns:
        For every measure, by kind of patches; nan if either is the same in all rows.
    """
    kinds = rows[0].precision or {}
    return {
        name: {
            kind: spearman(
                [measure(row) for row in rows],
                [row.precision[kind].sampled for row in rows if row.precision is not None],
            )
            for kind in kinds
        }
        for name, measure in MEASURES.items()
    }


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the rank correlation; ties share their mean rank, what is not a number ranks last."""
    a, b = (_ranks(np.nan_to_num(np.array(x, float), nan=-np.inf)) for x in (first, second))
    if len(a) < 2 or not a.std() or not b.std():
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, position, count = np.unique(values, return_inverse=True, return_counts=True)
    return (count.cumsum() - (count - 1) / 2)[position]
