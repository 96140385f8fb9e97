"""QLoRA: the LLM in 4 or 8 bits by bitsandbytes, where it is installed.

Limits: the linear layers of the LLM without its head; not under ZeRO-3, which would have to cut
quantised weights into parts.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from llava_sea.errors import UserError
from llava_sea.train.arguments import TrainingArguments


def quantization(args: TrainingArguments, dtype: torch.dtype, *, zero3: bool) -> dict[str, Any]:
    """Return options for the LLM's `from_pretrained`: none at ``--bits 16``.

    Args:
        args: bits, double_quant, quant_type and the device.
        dtype: that products are computed in.
        zero3: whether ZeRO-3 is on.

    Raises:
        UserError: without bitsandbytes, or under ZeRO-3.
    """
    if args.bits == 16:
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f'--bits {args.bits} needs bitsandbytes: pip install "llava_sea[qlora]" (or '
            "bitsandbytes), or leave the flag out for LoRA in 16 bits"
        )
    if zero3:
        raise UserError(
            f"--bits {args.bits} does not go with ZeRO-3; pass --deepspeed zero_configs/zero2.json"
        )
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=args.bits == 4,
        load_in_8bit=args.bits == 8,
        llm_int8_skip_modules=["lm_head"],
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=args.double_quant,
        bnb_4bit_quant_type=args.quant_type,
    )
    return {"quantization_config": config, "device_map": {"": args.device}}
