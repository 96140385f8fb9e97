"""The ablations' arms: `best` with one change each, through both stages.

Two arms change more than one flag. Soft targets need all positives, so their effect is the
difference to the multi-positive arm. After the warm start, once stage 1 is `best` and once it is
plain LLaVA: alignment before instead of within stage 1. The warm start sees the batches that stage
1 then begins with, and its temperature goes on where stage 1 has one.

Left out: negatives from all devices. A run is one process with one micro-batch a step, where they
are the local ones.
"""

from __future__ import annotations

from typing import Any

from playground.study.arms import ARMS, Arm

BASELINE = "sea-best"
"""What the ablations are compared with."""

WARM_STEPS = 50


def _best(name: str, title: str, *, top_n: int | None = None, warm: int = 0, **flags: Any) -> Arm:
    return Arm(name, title, "best", top_n=top_n, warm_start=warm, flags=flags)


ABLATIONS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        ARMS["plain"],
        ARMS[BASELINE],
        _best("weight-0.25", "lambda 0.25", sea_weight=0.25),
        _best("weight-0.5", "lambda 0.5", sea_weight=0.5),
        _best("weight-2", "lambda 2", sea_weight=2.0),
        _best("constant", "lambda constant", sea_weight_schedule="constant"),
        _best("tau-1", "temperature from 1", sea_log_scale_init=0.0),
        _best("window-1", "every patch (window 1)", sea_window=1),
        _best("window-3", "window 3", sea_window=3),
        _best("top-1", "labels: top 1", top_n=1),
        _best("top-5", "labels: top 5", top_n=5),
        _best("top-10", "labels: top 10", top_n=10),
        _best("all", "all patches of a label (multi-positive)", sea_positives="all"),
        _best("soft", "multi-positive, soft targets", sea_positives="all", sea_targets="soft"),
        _best("mask", "own top n no negatives", sea_mask_own_top_n=True),
        _best("warm-best", "warm start, then `best`", warm=WARM_STEPS),
        _best("warm-plain", "warm start, then plain LLaVA", warm=WARM_STEPS, sea_weight=0.0),
    )
}
"""In the order of the tables."""

KNOWN = ARMS | ABLATIONS
"""Every arm by name."""
