"""Measure the sign of eq. 8 by caption lift, before a corpus is mined with it.

The paper ranks words by the negated cosine; whether that or the plain cosine fits depends on the
encoder and on the features. For a sample of images and both signs: how often
does a kept label (top n, score above 0) occur in the image's own caption, and how often in
another image's (`caption_lift.py`)? A sign is taken only if its lift stands out of the noise, and
of the other sign's.

Limits: captions that say nothing about their images, or a sample of near-identical captions,
cannot tell the signs apart; then a sign must be forced.

Shape letters: I images, B images of a batch, P patches, Q words, D joint dimension, N labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import numpy as np
from torch import Tensor

from llava_sea.alignment.mining_bounds import prepare_words
from llava_sea.errors import UserError
from llava_sea.labels.caption_lift import (
    Floats,
    LiftMeasure,
    caption_rates,
    finite,
    in_errors,
    measure_lift,
    spread_words,
)
from llava_sea.labels.mine_shards import mine_batch
from llava_sea.labels.occurrence import find_occurrences

CLEAR = 3.0  # standard errors by which a lift must differ from 1
APART = 2.0  # standard errors by which the signs must differ, if both lifts are above 1


@dataclass(frozen=True)
class SignReport:
    """Both signs side by side."""

    plus: LiftMeasure
    minus: LiftMeasure
    apart: float  # log lift of plus less that of minus, in (paired) standard errors
    negative_share: float  # share of patch-word cosines below 0
    num_images: int

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers for a manifest; NaN and infinity become None."""
        return finite(asdict(self))


def measure_sign(
    images: Iterable[tuple[Sequence[int], Tensor]],
    captions: Sequence[str],
    words: Sequence[str],
    words_QD: Tensor,
    top_n: int,
) -> SignReport:
    """Mine a sample with both signs and compare the labels with the captions.

    Args:
        images: batches of (numbers of the images, their joint-space patch features
            ``(B, P, D)``); an image that could not be read may be left out.
        captions: every image's, by number.
        words: the word list.
        words_QD: its joint-space features, on the device of the patches.
        top_n: labels kept for a patch.

    Raises:
        UserError: if there are fewer than two images with captions.
    """
    occurrences = find_occurrences(captions, words)
    sample_QD, prepared = spread_words(words_QD), prepare_words(words_QD)
    labels: dict[int, list[Any]] = {1: [], -1: []}
    found: list[int] = []
    negative, total = 0, 0
    for numbers, patches_BPD in images:
        found += [int(number) for number in numbers]
        cosines = patches_BPD.flatten(0, 1) @ sample_QD.T
        negative += int((cosines < 0).sum())
        total += cosines.numel()
        for sign, batches in labels.items():
            ids_BPN, scores_BPN = mine_batch(patches_BPD, prepared, top_n, sign)
            batches.append(np.where(scores_BPN > 0, ids_BPN.astype(np.int64), -1))
    if len(found) < 2:
        raise UserError(
            f"the sign cannot be measured on {len(found)} readable images with captions; force it "
            "with --sea_sign +1 or --sea_sign -1"
        )
    joined = {sign: np.concatenate(batches) for sign, batches in labels.items()}
    rates = {sign: caption_rates(ids, found, occurrences) for sign, ids in joined.items()}
    lifts = {sign: measure_lift(sign, ids, *rates[sign], words) for sign, ids in joined.items()}
    apart = _apart(_log_lift(*rates[1]), _log_lift(*rates[-1]))
    return SignReport(lifts[1], lifts[-1], apart, negative / total, len(found))


def choose_sign(report: SignReport) -> int:
    """Take the sign whose lift is clearly above 1 and clearly above the other's.

    Raises:
        UserError: if neither is, with the numbers and the ways out.
    """
    clear = [m for m in (report.plus, report.minus) if m.clear >= CLEAR and m.lift > 1]
    if not clear:
        _refuse(
            report,
            "with neither sign do labels occur in their own images' captions clearly more often "
            f"than in other images' ({CLEAR:.0f} standard errors)",
        )
    winner = max(clear, key=lambda m: m.lift)
    loser = report.minus if winner is report.plus else report.plus
    if loser.clear >= APART and loser.lift > 1 and abs(report.apart) < APART:
        _refuse(report, "both signs' labels fit their captions, and neither fits clearly better")
    return winner.sign


def format_table(report: SignReport) -> str:
    """Return the small table that shows why a sign was taken or refused."""
    lines = [
        f"caption lift on {report.num_images} images "
        f"({report.negative_share:.1%} of the patch-word cosines are negative)",
        "sign   lift            in own   in other  clear  kept   hubs*  commonest labels",
    ]
    for m in (report.plus, report.minus):
        lines.append(
            f"{m.sign:+d}   {m.lift:7.3f} ± {m.lift_error:5.3f} {m.own_rate:8.4f} "
            f"{m.other_rate:8.4f} {m.clear:+6.1f} {m.kept:6.1%} {m.hub_cover:6.1%}  "
            + ", ".join(m.hubs)
        )
    lines.append("* patches with a label from the commonest 1 % of the words")
    return "\n".join(lines)


def _log_lift(own_I: Floats, other_I: Floats) -> tuple[float, Floats] | None:
    """The log of the lift and each image's pull on it, or None where it is not finite."""
    own, other = float(own_I.mean()), float(other_I.mean())
    if own == 0 or other == 0:
        return None
    return math.log(own / other), own_I / own - other_I / other


def _apart(plus: tuple[float, Floats] | None, minus: tuple[float, Floats] | None) -> float:
    """Difference of the log lifts in standard errors, paired by image (delta method)."""
    if plus is None or minus is None:
        return math.inf if minus is None else -math.inf
    pull_I = plus[1] - minus[1]
    return in_errors(plus[0] - minus[0], float(pull_I.std(ddof=1)) / math.sqrt(len(pull_I)))


def _refuse(report: SignReport, reason: str) -> NoReturn:
    raise UserError(
        f"--sea_sign auto: {reason}.\n"
        f"{format_table(report)}\n"
        "Ways out: other --sea_features (python -m llava_sea.labels.quality compares them), "
        "another --vision_tower, a word list made from these captions, a larger --sign_sample; or "
        "force the sign with --sea_sign +1 or --sea_sign -1, knowing that the labels may mean "
        "nothing."
    )
