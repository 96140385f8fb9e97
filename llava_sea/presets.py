"""The two presets: what `--sea_preset` stands for, each entry a flag of its own.

`paper` is the method as printed. `best` is what `python -m llava_sea.labels.quality` chooses on the
miniature world by place recall and place lift, which need no labels of patches: value-path features
of the last block, the sign measured, two words a patch (README, "The labels").
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"sea_features": "vanilla", "sea_sign": "-1", "sea_center": "none", "sea_top_n": 10},
    "best": {"sea_features": "value", "sea_sign": "auto", "sea_center": "none", "sea_top_n": 2},
}
