"""From a command line to checked arguments, LLaVA's old spellings included."""

from __future__ import annotations

import argparse
import difflib
import importlib.util
import logging
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from transformers import HfArgumentParser, SchedulerType, Trainer, get_scheduler
from transformers.training_args import OptimizerNames

from llava_sea.errors import UserError
from llava_sea.ranges import RANGES, check_range
from llava_sea.train.arguments import (
    Arguments,
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


class _Parser(HfArgumentParser):
    """An argparse parser whose complaints are `UserError`s."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. See --help for all flags")


def parse_args(argv: Sequence[str] | None = None) -> Arguments:
    """Parse flags, by default those of the process."""
    groups: Any = [ModelArguments, DataArguments, SeaArguments, TrainingArguments]
    parser = _Parser(groups, allow_abbrev=False, formatter_class=argparse.HelpFormatter)
    flags = _modernise(list(sys.argv[1:] if argv is None else argv))
    _refuse_unknown(parser, flags)
    try:
        return Arguments(*parser.parse_args_into_dataclasses(flags))
    except UserError:
        raise
    except (OSError, TypeError, ValueError) as error:
        raise UserError(str(error)) from None


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
            check_range(name, _number(value), RANGES["train"][name])
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


def _number(value: list[str]) -> float:
    try:
        return float(value[0])
    except (IndexError, ValueError):
        raise UserError(f"--warmup_ratio {' '.join(value)}: must be a number") from None


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


def check_stage(arguments: Arguments) -> None:
    """Refuse flags of the other stage, those that say opposite things, schedules that cannot be."""
    model, _, sea, args = arguments
    for flag in ("learning_rate", "mm_projector_lr", "mm_vision_tower_lr"):
        if getattr(args, flag) == 0:
            logger.warning("--%s 0: what it is for learns nothing", flag)
    _check_optimizer(args)
    _check_schedule(args)
    if model.tune_mm_mlp_adapter:
        given = {
            "--lora_enable True": args.lora_enable,
            "--unfreeze_mm_vision_tower True": model.unfreeze_mm_vision_tower,
            "--freeze_mm_mlp_adapter True": args.freeze_mm_mlp_adapter,
            "--group_by_modality_length True": args.group_by_modality_length,
            "--pack_sequences True": args.pack_sequences,
        }
        if sea.sea_align_only:
            _check_align_only(sea, args)
        reason = (
            "belongs to stage 2; --tune_mm_mlp_adapter True is stage 1, which trains the "
            "projector alone on records with one image each"
        )
    else:
        given = {
            "--sea_labels": sea.sea_labels is not None,
            "--sea_eval_data": sea.sea_eval_data is not None,
            "--sea_align_only True": sea.sea_align_only,
        }
        reason = "belongs to stage 1: add --tune_mm_mlp_adapter True, or leave it out"
        if model.version in ("plain", "v0_plain"):
            raise UserError(
                f"--version {model.version} is for captions in stage 1; name the conversation "
                "template of your LLM (v1 for Vicuna), or add --tune_mm_mlp_adapter True"
            )
        trains_llm = args.lora_enable or not model.freeze_backbone
        if not (trains_llm or model.unfreeze_mm_vision_tower or not args.freeze_mm_mlp_adapter):
            raise UserError(
                "--freeze_backbone True and --freeze_mm_mlp_adapter True leave nothing to train"
            )
        if args.mm_vision_tower_lr is not None and not model.unfreeze_mm_vision_tower:
            raise UserError(
                "--mm_vision_tower_lr needs --unfreeze_mm_vision_tower True: the tower is frozen"
            )
    for flag, is_given in given.items():
        if is_given:
            raise UserError(f"{flag} {reason}")


def _check_align_only(sea: SeaArguments, args: TrainingArguments) -> None:
    if not sea.enabled:
        raise UserError(
            "--sea_align_only True (WARM_START=1 of pretrain_sea.sh) needs --sea_labels and a "
            "--sea_weight above 0"
        )
    if args.use_liger_kernel:
        raise UserError("--use_liger_kernel True: leave it out with --sea_align_only True")
    engine = getattr(args, "hf_deepspeed_config", None)
    if engine is not None and engine.is_zero3():
        raise UserError(
            "--sea_align_only True holds no LLM that ZeRO-3 could partition; use zero2.json"
        )
    if sea.sea_eval_data is not None:
        logger.warning("--sea_eval_data is left out: its measures run the LLM")
        sea.sea_eval_data = None


def _check_optimizer(args: TrainingArguments) -> None:
    name = OptimizerNames(args.optim).value
    try:
        Trainer.get_optimizer_cls_and_kwargs(args)
    except (ImportError, ValueError) as error:
        needs_model = name.startswith(("galore", "apollo", "lomo", "adalomo"))
        if isinstance(error, ImportError) or not needs_model:
            raise UserError(f"--optim {name}: {error}") from None


def _check_schedule(args: TrainingArguments) -> None:
    name = SchedulerType(args.lr_scheduler_type).value
    options: Any = args.lr_scheduler_kwargs  # a dict once it is parsed
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], args.learning_rate)
    try:
        get_scheduler(name, optimizer, args.get_warmup_steps(100), 100, options)
    except (ArithmeticError, TypeError, ValueError) as error:
        flags = f"--lr_scheduler_type {name} --lr_scheduler_kwargs {options}"
        raise UserError(f"{flags}, --learning_rate {args.learning_rate:g}: {error}") from None
