"""The two presets: what `--sea_preset` stands for, each entry a flag of its own.

`paper` is the method as printed. `best` is what has been shown to be better; until there is a study
it differs in two points: the sign of the scores is measured, and patch features come from the value
path of the last block (README, "Readings of the paper").
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"sea_features": "vanilla", "sea_sign": "-1", "sea_center": "none", "sea_top_n": 10},
    "best": {"sea_features": "value", "sea_sign": "auto", "sea_center": "none", "sea_top_n": 10},
}
