"""The JSON file of ``--deepspeed``: it decides about ZeRO, the flags decide about all else.

Trainer lets an ``optimizer`` or ``scheduler`` block of the file win over the flags without a word:
WarmupLR takes the cosine's place, and a learning rate of the projector's own is lost. DeepSpeed
takes a key that is missing for a value of its own: no accumulation, no clipping. So the two blocks
are taken out with a warning, missing keys are left to the flags, and a value that contradicts a
flag is an error.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.training_args import OptimizerNames

from llava_sea.errors import UserError
from llava_sea.files import read_object

logger = logging.getLogger(__name__)

BLOCKS = ("zero_optimization", "fp16", "bf16", "amp", "torch_autocast")

OFFLOADED = ("adamw_torch", "adamw_torch_fused", "adagrad", "paged_adamw_32bit", "lion_32bit")
"""Values of --optim that DeepSpeed can compute on the CPU; accelerate makes Adam of others."""

TAKEN_OUT = {
    "optimizer": "--optim, --learning_rate, --mm_projector_lr, --weight_decay and --adam_* decide",
    "scheduler": "--lr_scheduler_type and --warmup_steps decide",
}
LEFT_TO_FLAGS = (
    *("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"),
    "gradient_clipping",
)


def read_engine(given: str | dict[str, Any]) -> dict[str, Any]:
    """Read the file, without what is not its business.

    `given` is its path, or the JSON itself as text or read already.
    """
    file = describe(given)
    if isinstance(given, dict):
        config = copy.deepcopy(given)
    elif file != "--deepspeed":
        config = read_object(Path(given))
    else:
        try:
            config = json.loads(given)
        except ValueError as error:
            raise UserError(f"--deepspeed: no JSON ({error})") from None
    _check_blocks(file, config)
    for block, decides in TAKEN_OUT.items():
        if config.pop(block, None) is not None:
            logger.warning("%s: its block %r is left out; %s", file, block, decides)
    if config.get("gradient_clipping") is None:
        logger.warning(
            "%s: has no 'gradient_clipping'; --max_grad_norm decides (0: no clipping, as in "
            "LLaVA's runs with its zero2.json and zero3.json)",
            file,
        )
    for key in LEFT_TO_FLAGS:
        if config.get(key) is None:
            config[key] = "auto"
    for block in ("fp16", "bf16"):
        config.setdefault(block, {}).setdefault("enabled", "auto")
    return config


def _check_blocks(file: str, config: Mapping[str, Any]) -> None:
    zero = config.get("zero_optimization")
    blocks = {name: config[name] for name in BLOCKS if name in config}
    if isinstance(zero, dict):
        offload = ("offload_optimizer", "offload_param")
        blocks |= {name: zero[name] for name in offload if zero.get(name)}
    for name, block in blocks.items():
        if not isinstance(block, dict):
            raise UserError(f"{file}: {name!r} must be an object")
    if zero is None or zero.get("stage") not in (0, 1, 2, 3):
        raise UserError(f"{file}: 'zero_optimization' needs a 'stage' from 0 to 3")
    if "bfloat16" in config:
        raise UserError(f"{file}: 'bfloat16' is DeepSpeed's old name; call the block 'bf16'")
    for name in ("amp", "torch_autocast"):
        if config.get(name, {}).get("enabled"):
            raise UserError(f"{file}: take {name!r} out; --fp16 and --bf16 decide the precision")


def describe(given: str | dict[str, Any]) -> str:
    """Return how messages call the file."""
    is_path = isinstance(given, str) and not given.lstrip().startswith("{")
    return f"--deepspeed {given}" if is_path else "--deepspeed"


def check_agreement(file: str, args: Any) -> None:
    """Refuse values that contradict a flag; "auto" never does."""
    engine = args.hf_deepspeed_config
    differing = [
        told.removeprefix("- ds ").replace(" vs hf ", " there, by the flags ")
        for told in engine.mismatches
    ]
    if differing:
        raise UserError(
            f'{file}: {"; ".join(differing)}. Write "auto" there, or give the flags the values of '
            "the file (--per_device_train_batch_size, --gradient_accumulation_steps, "
            "--max_grad_norm, --fp16, --bf16)"
        )
    offloaded = engine.get_value("zero_optimization.offload_optimizer.device", "none") != "none"
    forced = engine.get_value("zero_force_ds_cpu_optimizer", True)
    optimizer = OptimizerNames(args.optim).value
    if offloaded and forced and optimizer not in OFFLOADED:
        raise UserError(
            f"--optim {optimizer}: {file} has 'offload_optimizer', where DeepSpeed would take "
            f"Adam instead. Use one of {', '.join(OFFLOADED)}, or write "
            '"zero_force_ds_cpu_optimizer": false there'
        )
