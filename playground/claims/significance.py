"""Is a mean difference over seeds more than chance? Two paired tests, standard library only.

The sign-flip test assumes nothing but that without an effect each seed's difference is as likely
the other way round; with n seeds its p is at least 2 / 2^n. The t-test assumes normal differences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

MAX_EXACT = 16
"""Seeds up to which all sign patterns are tried."""

_INTERVALS = 2000


def sign_flip_p(differences: Sequence[float]) -> float:
    """Return the two-sided p of the exact sign-flip permutation test of the mean; nan of none.

    Args:
        differences: one a seed, at most `MAX_EXACT`.
    """
    count = len(differences)
    if not count:
        return math.nan
    assert count <= MAX_EXACT, f"{count} seeds have 2^{count} sign patterns"
    observed = abs(math.fsum(differences))
    slack = 1e-9 * math.fsum(map(abs, differences))  # sums of the same numbers differ in rounding
    as_far = sum(
        abs(math.fsum(s * d for s, d in zip(signs, differences, strict=True))) >= observed - slack
        for signs in product((1, -1), repeat=count)
    )
    return as_far / 2**count


def t_test_p(differences: Sequence[float]) -> float:
    """Return the two-sided p of the paired t-test; nan for fewer than two or equal differences."""
    count = len(differences)
    if count < 2:
        return math.nan
    mean = math.fsum(differences) / count
    variance = math.fsum((d - mean) ** 2 for d in differences) / (count - 1)
    if variance == 0:
        return math.nan
    return 1 - _t_within(abs(mean) / math.sqrt(variance / count), count - 1)


def holm(ps: Sequence[float]) -> list[float]:
    """Return each p corrected for the number of tests, in the order given (Holm 1979).

    Below 0.05 are then, with a probability of 95 %, no tests of what has no effect, however the
    tests depend on each other.
    """
    corrected = [1.0] * len(ps)
    least = 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        least = max(least, min(1.0, (len(ps) - rank) * ps[index]))
        corrected[index] = least
    return corrected


def _t_within(t: float, freedom: int) -> float:
    """Return the share of Student's t between -t and t, by Simpson's rule.

    With t = sqrt(freedom) tan(a) the density becomes cos(a)^(freedom - 1): finite and smooth.
    """
    angle = math.atan(t / math.sqrt(freedom))
    scale = math.gamma((freedom + 1) / 2) / (math.sqrt(math.pi) * math.gamma(freedom / 2))
    step = angle / _INTERVALS
    values = [math.cos(i * step) ** (freedom - 1) for i in range(_INTERVALS + 1)]
    area = step / 3 * (
        values[0] + values[-1] + 4 * math.fsum(values[1:-1:2]) + 2 * math.fsum(values[2:-1:2])
    )  # fmt: skip
    return 2 * scale * area
