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


def _table(*rows: tuple[Range, str]) -> dict[str, Range]:
    """Flags, by name, of a range and the names that have it."""
    return {name: allowed for allowed, names in rows for name in names.split()}


RANGES: dict[str, dict[str, Range]] = {
    "train": _table(  # of the checker too
        (ABOVE_ZERO, "num_train_epochs adam_epsilon"),
        (at_least(0), "learning_rate mm_projector_lr mm_vision_tower_lr weight_decay"),
        (at_least(0), "max_grad_norm neftune_noise_alpha eval_delay sea_weight sea_length_weight"),
        (BELOW_ONE, "warmup_ratio adam_beta1 adam_beta2 label_smoothing_factor lora_dropout"),
        (whole(1), "per_device_train_batch_size per_device_eval_batch_size model_max_length"),
        (whole(1), "gradient_accumulation_steps eval_accumulation_steps save_total_limit"),
        (whole(1), "torch_empty_cache_steps ddp_bucket_cap_mb ddp_timeout lora_r lora_alpha"),
        (whole(1), "sea_window sea_eval_steps sea_eval_samples sea_eval_words"),
        (whole(1, also=(-1,)), "max_steps"),
        (STEPS, "logging_steps save_steps eval_steps"),
        (Range(0, LARGEST, or_share=True), "warmup_steps"),
        (whole(0, LARGEST_SEED), "seed data_seed"),
        (whole(0, 1024), "dataloader_num_workers"),
        (whole(1, 1024), "dataloader_prefetch_factor"),
        (whole(-1), "local_rank"),
        (whole(-1024, 1024), "mm_vision_select_layer"),
        (whole(4, 16), "bits"),
        (LOG_SCALE, "sea_log_scale_init"),
    ),
    "check": _table((whole(0), "show max_problems"), (whole(0, 1024), "num_workers")),
    "labels.word_list": _table(
        (whole(1), "min_count max_words_per_phrase"), (whole(1, 1024), "num_workers")
    ),
    "labels.extract": _table(
        (whole(1), "sea_top_n sign_sample batch_size shard_size"),
        (Range(0, 1, whole=False), "sea_caption_share"),
        (whole(-1), "local_rank"),
        (whole(1, 1024), "loader_threads"),
    ),
    "labels.quality": _table(
        (whole(2), "num_images"),
        (whole(1), "top_n batch_size"),
        (whole(1, 1024), "loader_threads"),
    ),
    "eval": _table((whole(1), "batch_size"), (whole(-1), "local_rank")),
    "eval.answer": _table(
        (TEMPERATURE, "temperature"),
        (Range(0, 1, whole=False, low_open=True), "top_p"),
        (whole(1), "num_beams max_new_tokens num_chunks batch_size"),
        (whole(0), "chunk_idx"),
        (whole(-1), "local_rank"),
    ),
    "serve.cli": _table((TEMPERATURE, "temperature"), (whole(1), "max_new_tokens")),
    "serve.web": _table(
        (TEMPERATURE, "temperature"), (whole(1), "max_new_tokens"), (whole(1, 65_535), "port")
    ),
    "preflight": _table((whole(1), "num_gpus"), (ABOVE_ZERO, "gpu_memory")),
    "report": _table((whole(1), "num_images num_words"), (whole(0), "map_points")),
}
"""Command, then flag."""


def check_ranges(command: str, options: object) -> None:
    """Check a command's flags, the options' attributes; those that are None or missing pass."""
    for flag, allowed in RANGES[command].items():
        given = getattr(options, flag, None)
        for value in given if isinstance(given, list | tuple) else [given]:
            if value is not None:
                check_range(flag, value, allowed)


def check_range(flag: str, value: float, allowed: Range, why: str = "") -> None:
    """Raise a UserError that names the flag, its value, its range, and why that is its range."""
    if not allowed.holds(value):
        raise UserError(f"--{flag} {value}: must be {allowed}{why and f' ({why})'}")
