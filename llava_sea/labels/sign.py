"""Caption lift, and the sign of eq. 8 that it decides before a corpus is mined.

Lift: how much more often an image's labels (top n, score above 0) occur in its own caption than in
all other captions of the sample, on average; 1 for labels that know nothing of the image. Beside
it: how many labels are left, and hubs, the few words that are labels everywhere.

The paper ranks words by the negated cosine; whether that or the plain cosine fits depends on the
encoder and on the features. Both are measured on a sample, and a sign is taken only if its lift
stands out of the noise, and of the other sign's.

Limits: lift says nothing of the place in the image (`quality_measures.py` does). Captions that say
nothing about their images, or are nearly identical, cannot tell the signs apart; then a sign must
be forced.

Shape letters: I images, B images of a batch, P patches, Q words, D joint dimension, N labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from llava_sea.alignment.mining_bounds import prepare_words
from llava_sea.errors import UserError
from llava_sea.labels.mine import mine_batch
from llava_sea.labels.occurrence import find_occurrences

Floats = NDArray[np.float64]

CLEAR = 3.0  # standard errors by which a lift must differ from 1
APART = 2.0  # standard errors by which the signs must differ, if both lifts are above 1
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


@dataclass(frozen=True)
class SignReport:
    """Both signs side by side."""

    plus: LiftMeasure
    minus: LiftMeasure
    apart: float  # log lift of plus less that of minus, in (paired) standard errors
    negative_share: float  # share of patch-word cosines below 0
    num_images: int


def caption_rates(
    labels_IPN: NDArray[np.integer], numbers: Sequence[int], occurrences: list[NDArray[np.int64]]
) -> tuple[Floats, Floats]:
    """Return the share of each image's labels in its own caption, and in another on average.

    A label of -1 is dropped; `numbers` are those of the images' own captions among all of the
    sample, whose words `occurrences` are (from `find_occurrences`).
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
        clear=_in_errors(own - other, float((own_I - other_I).std(ddof=1)) / root),
        kept=float(kept.mean()),
        hub_cover=float((is_hub_Q[labels_IPN] & kept).any(-1).mean()),
        hubs=tuple(words[i] for i in order_Q[:3] if count_Q[i]),
    )


def spread_words(words_QD: Tensor) -> Tensor:
    """Take at most some thousand words, evenly spaced over the list."""
    return words_QD[:: math.ceil(len(words_QD) / _COSINE_WORDS)]


def finite(value: Any) -> Any:
    """Round a tree of numbers for JSON; NaN and infinity become None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


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
    return SignReport(
        lifts[1], lifts[-1], _apart(rates[1], rates[-1]), negative / total, len(found)
    )


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


def _in_errors(difference: float, error: float) -> float:
    """Return a difference in standard errors; infinite if there is no error."""
    if error:
        return difference / error
    return math.copysign(math.inf, difference) if difference else 0.0


def _apart(plus: tuple[Floats, Floats], minus: tuple[Floats, Floats]) -> float:
    """Difference of the log lifts in standard errors, paired by image (delta method)."""
    logs: list[float] = []
    pulls: list[Floats] = []
    for own_I, other_I in (minus, plus):
        own, other = float(own_I.mean()), float(other_I.mean())
        if own == 0 or other == 0:
            return -math.inf if logs else math.inf
        logs.append(math.log(own / other))
        pulls.append(own_I / own - other_I / other)
    pull_I = pulls[1] - pulls[0]
    return _in_errors(logs[1] - logs[0], float(pull_I.std(ddof=1)) / math.sqrt(len(pull_I)))


def _refuse(report: SignReport, reason: str) -> NoReturn:
    raise UserError(
        f"--sea_sign auto: {reason}.\n"
        f"{format_table(report)}\n"
        "Ways out: other --sea_features (python -m llava_sea.labels.quality compares them), "
        "another --vision_tower, a word list made from these captions, a larger --sign_sample; or "
        "force the sign with --sea_sign +1 or --sea_sign -1, knowing that the labels may mean "
        "nothing."
    )
