"""Which flags belong to which stage, and which say opposite things."""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers import SchedulerType, Trainer, get_scheduler
from transformers.training_args import OptimizerNames

from llava_sea.errors import UserError
from llava_sea.train.arguments import ModelArguments, SeaArguments, TrainingArguments

logger = logging.getLogger(__name__)


def check_stage(model: ModelArguments, sea: SeaArguments, args: TrainingArguments) -> None:
    """Refuse flags of the other stage, those that say opposite things, schedules that cannot be.

    Raises:
        UserError: naming the flag and the way out.
    """
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
            "projector alone on records with one picture each"
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
    """Refuse what needs the LLM that is not there."""
    if not sea.enabled:
        raise UserError("--sea_align_only True needs --sea_labels and a --sea_weight above 0")
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
    """Refuse an optimizer whose package is not installed."""
    name = OptimizerNames(args.optim).value
    try:
        Trainer.get_optimizer_cls_and_kwargs(args)
    except (ImportError, ValueError) as error:
        needs_model = name.startswith(("galore", "apollo", "lomo", "adalomo"))
        if isinstance(error, ImportError) or not needs_model:
            raise UserError(f"--optim {name}: {error}") from None


def _check_schedule(args: TrainingArguments) -> None:
    """Refuse a schedule that its --lr_scheduler_kwargs do not fit."""
    name = SchedulerType(args.lr_scheduler_type).value
    options: Any = args.lr_scheduler_kwargs  # a dict once it is parsed
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], args.learning_rate)
    try:
        get_scheduler(name, optimizer, args.get_warmup_steps(100), 100, options)
    except (ArithmeticError, TypeError, ValueError) as error:
        flags = f"--lr_scheduler_type {name} --lr_scheduler_kwargs {options}"
        raise UserError(f"{flags}, --learning_rate {args.learning_rate:g}: {error}") from None
