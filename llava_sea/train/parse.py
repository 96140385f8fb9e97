"""From a command line to the argument dataclasses, LLaVA's old spellings included."""

from __future__ import annotations

import argparse
import difflib
import importlib.util
import logging
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from transformers import HfArgumentParser

from llava_sea.errors import UserError
from llava_sea.ranges import RANGES, check_range
from llava_sea.train.arguments import (
    DataArguments,
    ModelArguments,
    SeaArguments,
    TrainingArguments,
)

logger = logging.getLogger(__name__)

RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "warmup_ratio": "warmup_steps",  # a float below 1 is a share of the steps
    "local-rank": "local_rank",
}
if "activation_checkpointing" in TrainingArguments.__dataclass_fields__:
    RENAMED["gradient_checkpointing"] = "activation_checkpointing"
DROPPED = {
    "is_multimodal": "it follows from the data",
    "lazy_preprocess": "records are always read lazily",
    "mpt_attn_impl": "MPT is not supported",
    "lora_weight_path": "LLaVA never read it either",
    "save_safetensors": "weights are always written safely",
    "logging_dir": "TensorBoard files go to <output_dir>/runs",
    "overwrite_output_dir": "a run never overwrites another; use a new --output_dir",
}

Arguments = tuple[ModelArguments, DataArguments, SeaArguments, TrainingArguments]


class _Parser(HfArgumentParser):
    """An argparse parser whose complaints are `UserError`s."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. See --help for all flags")


def parse_args(argv: Sequence[str] | None = None) -> Arguments:
    """Parse flags.

    Args:
        argv: the flags; default: the process's.

    Raises:
        UserError: on a missing, unknown or impossible flag, with the nearest name or the way out.
    """
    groups: Any = [ModelArguments, DataArguments, SeaArguments, TrainingArguments]
    parser = _Parser(groups, allow_abbrev=False, formatter_class=argparse.HelpFormatter)
    flags = _modernise(list(sys.argv[1:] if argv is None else argv))
    _refuse_unknown(parser, flags)
    try:
        model, data, sea, training = parser.parse_args_into_dataclasses(flags)
    except UserError:
        raise
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from None
    return model, data, sea, training


def _modernise(flags: list[str]) -> list[str]:
    """Translate old spellings and take out what no longer applies, each with a warning."""
    values = _split(flags)
    result: list[tuple[str, list[str]]] = []
    on_cpu = not torch.cuda.is_available()
    on = {name for name, value in values if _is_true(value)}
    if {"fp16", "bf16"} <= on:
        raise UserError("--fp16 True and --bf16 True: choose one of them")
    use_cpu = "use_cpu" in on
    for name, value in values:
        if name in DROPPED:
            logger.warning("--%s is ignored: %s", name, DROPPED[name])
            continue
        if name in ("bf16", "fp16") and _is_true(value) and on_cpu and not use_cpu:
            logger.warning("--%s True is ignored: no GPU here (force it with --use_cpu)", name)
            continue
        if name == "tf32" and (on_cpu or torch.cuda.get_device_capability()[0] < 8):
            logger.warning("--tf32 is ignored: it needs an Ampere GPU or later")
            continue
        if name == "report_to" and "wandb" in value and not importlib.util.find_spec("wandb"):
            logger.warning("--report_to wandb: wandb is not installed, using tensorboard")
            value = [{"wandb": "tensorboard"}.get(v, v) for v in value]
        if name == "warmup_ratio":  # before it is renamed: 1 and more would be steps
            check_range(name, _number(name, value), RANGES["train"][name])
        if name in RENAMED:
            if name in ("evaluation_strategy", "warmup_ratio"):
                logger.info("--%s is called --%s today", name, RENAMED[name])
            name = RENAMED[name]
        result.append((name, value))
    names = {name for name, _ in result}
    if "report_to" not in names:
        result.append(("report_to", ["tensorboard"]))
    if on_cpu and "use_cpu" not in names:
        result.append(("use_cpu", ["True"]))  # without it a run of several processes counts one
    return [token for name, value in result for token in ([f"--{name}"] if name else []) + value]


def _split(flags: list[str]) -> list[tuple[str, list[str]]]:
    """Group a command line into (flag name, values); values before any flag get the name ''."""
    grouped: list[tuple[str, list[str]]] = []
    for token in flags:
        if token.startswith("--"):
            name, equals, value = token[2:].partition("=")
            grouped.append((name, [value] if equals else []))
        elif grouped:
            grouped[-1][1].append(token)
        else:
            grouped.append(("", [token]))
    return grouped


def _number(name: str, value: list[str]) -> float:
    try:
        return float(value[0])
    except (IndexError, ValueError):
        raise UserError(f"--{name} {' '.join(value)}: must be a number") from None


def _is_true(value: list[str]) -> bool:
    return not value or value[0].lower() in ("true", "1", "yes", "y", "t")


def _refuse_unknown(parser: argparse.ArgumentParser, flags: list[str]) -> None:
    known = {option.lstrip("-") for action in parser._actions for option in action.option_strings}
    for name, value in _split(flags):
        if not name:
            raise UserError(f"{value[0]!r} is no flag; flags begin with --")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; did you mean --{near[0]}?" if near else "; see --help"
            raise UserError(f"--{name} is not a flag{hint}")


def describe(arguments: Any) -> dict[str, Any]:
    """Return a dataclass's fields as plain JSON values."""
    values: dict[str, Any] = arguments.to_dict() if hasattr(arguments, "to_dict") else {}
    return values or dict(vars(arguments))
