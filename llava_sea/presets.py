"""The two presets: what `--sea_preset` stands for, each entry a flag of its own.

`paper` is the method as printed. `best` is what was shown to be better on the miniature world. Its
labels are what `python -m llava_sea.labels.quality` chooses there by place recall and place lift,
which need no labels of patches: value-path features of the last block, the sign measured, two words
a patch; but one, a word of the image's own caption, where that scores nearly as high. Its training
starts at CLIP's temperature, holds the visual tokens at the embedding rows' length and lets lambda
fall to 0 over the first half, chosen on dev scenes of that world (README, "Does it help?"). Before
it `scripts/pretrain_sea.sh` runs a warm start (`--sea_align_only True`), which is a run of its own.
"""

from __future__ import annotations

from typing import Any

LABEL_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "sea_features": "vanilla",
        "sea_sign": "-1",
        "sea_center": "none",
        "sea_top_n": 10,
        "sea_caption_share": 0.0,
    },
    "best": {
        "sea_features": "value",
        "sea_sign": "auto",
        "sea_center": "none",
        "sea_top_n": 2,
        "sea_caption_share": 0.9,
    },
}
"""Flags of the extraction."""

TRAINING_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "sea_weight_schedule": "constant",
        "sea_log_scale_init": 0.0,
        "sea_length_weight": 0.0,
    },
    "best": {
        "sea_weight_schedule": "decay",
        "sea_log_scale_init": 2.659,
        "sea_length_weight": 1.0,
    },
}
"""Flags of the training; without a preset they are as in the paper."""
