"""The values that numeric flags may have, of all commands, in one table.

NaN and infinity are never in a range. What depends on data or on a model (the layers of a tower,
the words of a list) is checked where these are known, with `check_range`. Standard library only, so
that ``--help`` answers at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from llava_sea.errors import UserError

LARGEST = 2**31 - 1
LARGEST_SEED = 2**32 - 1
"""Of numpy's generators."""


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, ends included unless they are open."""

    low: float
    high: float
    whole: bool = True
    low_open: bool = False
    high_open: bool = False
    also: tuple[float, ...] = ()
    """Values outside that have a meaning of their own."""
    or_share: bool = False
    """A number above 0 and below 1 is a share of the run's steps."""

    def holds(self, value: float) -> bool:
        """Say whether a number is in the range."""
        if value in self.also or (self.or_share and 0 < value < 1):
            return True
        if not math.isfinite(value) or (self.whole and value != int(value)):
            return False
        above = value > self.low or (value == self.low and not self.low_open)
        return above and (value < self.high or (value == self.high and not self.high_open))

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        low = f"above {self.low:.10g}" if self.low_open else f"from {self.low:.10g}"
        high = f" to {'below ' * self.high_open}{self.high:.10g}"
        if self.high == math.inf:
            high = "" if self.low_open else " up"
        also = "".join(f"{value:.10g}, or " for value in self.also)
        share = ", or a share of the steps (above 0, below 1)" if self.or_share else ""
        return f"{also}{kind} {low}{high}{share}"


def whole(low: int, high: int = LARGEST, *, also: tuple[float, ...] = ()) -> Range:
    """Return a range of whole numbers."""
    return Range(low, high, also=also)


def at_least(low: float) -> Range:
    """Return the numbers from `low` up."""
    return Range(low, math.inf, whole=False)


ABOVE_ZERO = Range(0, math.inf, whole=False, low_open=True)
BELOW_ONE = Range(0, 1, whole=False, high_open=True)
STEPS = Range(1, LARGEST, or_share=True)
# Below it the logits overflow when they are divided by it.
TEMPERATURE = Range(1e-4, 1000, whole=False, also=(0,))
LOG_SCALE = Range(-10, math.log(100), whole=False)
"""Of the logit scale's start; ln 100 is the scale's limit."""

RANGES: dict[str, dict[str, Range]] = {
    # Of the checker too. Those without a comment are transformers' own.
    "train": {
        "num_train_epochs": ABOVE_ZERO,
        "max_steps": whole(1, also=(-1,)),
        "per_device_train_batch_size": whole(1),
        "per_device_eval_batch_size": whole(1),
        "gradient_accumulation_steps": whole(1),
        "eval_accumulation_steps": whole(1),
        "learning_rate": at_least(0),
        "warmup_steps": Range(0, LARGEST, or_share=True),
        "warmup_ratio": BELOW_ONE,
        "weight_decay": at_least(0),
        "adam_beta1": BELOW_ONE,
        "adam_beta2": BELOW_ONE,
        "adam_epsilon": ABOVE_ZERO,
        "max_grad_norm": at_least(0),
        "label_smoothing_factor": BELOW_ONE,
        "neftune_noise_alpha": at_least(0),
        "logging_steps": STEPS,
        "save_steps": STEPS,
        "eval_steps": STEPS,
        "eval_delay": at_least(0),
        "save_total_limit": whole(1),
        "torch_empty_cache_steps": whole(1),
        "seed": whole(0, LARGEST_SEED),
        "data_seed": whole(0, LARGEST_SEED),
        "dataloader_num_workers": whole(0, 1024),
        "dataloader_prefetch_factor": whole(1, 1024),
        "ddp_bucket_cap_mb": whole(1),
        "ddp_timeout": whole(1),
        "local_rank": whole(-1),
        # LLaVA's
        "mm_vision_select_layer": whole(-1024, 1024),
        "mm_projector_lr": at_least(0),
        "mm_vision_tower_lr": at_least(0),
        "model_max_length": whole(1),
        "lora_r": whole(1),
        "lora_alpha": whole(1),
        "lora_dropout": BELOW_ONE,
        "bits": whole(4, 16),
        # SEA's
        "sea_weight": at_least(0),
        "sea_length_weight": at_least(0),
        "sea_window": whole(1),
        "sea_log_scale_init": LOG_SCALE,
        "sea_eval_steps": whole(1),
        "sea_eval_samples": whole(1),
        "sea_eval_words": whole(1),
    },
    "check": {
        "show": whole(0),
        "max_problems": whole(0),
        "num_workers": whole(0, 1024),
    },
    "labels.word_list": {
        "min_count": whole(1),
        "max_words_per_phrase": whole(1),
        "num_workers": whole(1, 1024),
    },
    "labels.extract": {
        "sea_top_n": whole(1),
        "sign_sample": whole(1),
        "batch_size": whole(1),
        "shard_size": whole(1),
        "local_rank": whole(-1),
        "loader_threads": whole(1, 1024),
    },
    "labels.quality": {
        "num_images": whole(2),
        "top_n": whole(1),
        "batch_size": whole(1),
        "loader_threads": whole(1, 1024),
    },
    "eval": {
        "batch_size": whole(1),
        "local_rank": whole(-1),
    },
    "eval.answer": {
        "temperature": TEMPERATURE,
        "top_p": Range(0, 1, whole=False, low_open=True),
        "num_beams": whole(1),
        "max_new_tokens": whole(1),
        "num_chunks": whole(1),
        "chunk_idx": whole(0),
        "batch_size": whole(1),
        "local_rank": whole(-1),
    },
    "serve.cli": {
        "temperature": TEMPERATURE,
        "max_new_tokens": whole(1),
    },
    "report": {
        "num_images": whole(1),
        "num_words": whole(1),
        "map_points": whole(0),
    },
}
"""Command, then flag."""


def check_ranges(command: str, options: object) -> None:
    """Refuse options that are out of their ranges.

    Args:
        command: a key of `RANGES`.
        options: has the flags as attributes; None, and a flag that it does not have, pass.

    Raises:
        UserError: naming the flag, its value and its range.
    """
    for flag, allowed in RANGES[command].items():
        given = getattr(options, flag, None)
        for value in given if isinstance(given, list | tuple) else [given]:
            if value is not None:
                check_range(flag, value, allowed)


def check_range(flag: str, value: float, allowed: Range, why: str = "") -> None:
    """Refuse one value.

    Raises:
        UserError: naming the flag, its value, its range, and why that is its range.
    """
    if not allowed.holds(value):
        raise UserError(f"--{flag} {value}: must be {allowed}{why and f' ({why})'}")
