"""`--use_liger_kernel`: Liger's Triton kernels in the LLM, and its fused linear cross-entropy.

transformers would patch the forward of a causal LM, which this package never calls: it takes the
LLM without its head and computes L_g itself (`WrappedLlava.token_loss`). So the kernels go into the
LLM, and the fused loss (head and cross-entropy in one, no logits kept) into the wrapper. What
cannot be used is refused, never left out quietly. Limits: the fused loss reads the head's weight
beside its module, which ZeRO-3 keeps in parts.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from llava_sea.errors import UserError
from llava_sea.model.wrapped import WrappedLlava

logger = logging.getLogger(__name__)

_KERNELS = ("rope", "rms_norm", "swiglu", "geglu", "layer_norm", "fused_linear_cross_entropy")


def check_liger(value: object) -> dict[str, bool] | None:
    """Refuse Liger where it cannot run; return ``--liger_kernel_config``, JSON or a dict, read.

    Raises:
        UserError: if it is not installed, there is no GPU, or the value says something else than
            on or off for kernels that are known.
    """
    flag = "--use_liger_kernel True"
    if importlib.util.find_spec("liger_kernel") is None:
        raise UserError(
            f"{flag}: liger-kernel is not installed; `pip install liger-kernel` (it needs a GPU "
            "with Triton), or leave the flag out"
        )
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        raise UserError(f"{flag}: its kernels need a GPU, there is none here; leave the flag out")
    config = value
    if isinstance(value, str):
        with suppress(ValueError):
            config = json.loads(value)
    if config is None:
        return None
    if not isinstance(config, dict) or not all(isinstance(on, bool) for on in config.values()):
        raise UserError(
            f"--liger_kernel_config {value}: pass JSON of kernels and true or false, like "
            "'{\"fused_linear_cross_entropy\": false}'"
        )
    unknown = sorted(set(config) - set(_KERNELS))
    if unknown:
        raise UserError(
            f"--liger_kernel_config: {', '.join(unknown)} cannot be used here; known are "
            f"{', '.join(_KERNELS)}"
        )
    return config


def use_liger(model: WrappedLlava, config: dict[str, bool] | None, *, zero3: bool) -> str:
    """Put Liger's kernels into a model; return what is used, in words."""
    chosen = dict(check_liger(config) or {})
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    from liger_kernel.transformers.monkey_patch import (
        MODEL_TYPE_TO_APPLY_LIGER_FN,
        _apply_liger_kernel_to_instance,
    )

    fused = chosen.pop("fused_linear_cross_entropy", True)
    llm: Any = model.language_model
    used = []
    if llm.config.model_type in MODEL_TYPE_TO_APPLY_LIGER_FN:
        options = {"fused_linear_cross_entropy": False, "cross_entropy": False} | chosen
        _apply_liger_kernel_to_instance(model=llm, **options)
        # rope, RMSNorm and the MLP are on unless they are turned off one by one.
        if not {"rope", "rms_norm"} <= {name for name, on in chosen.items() if not on}:
            used.append(f"kernels of {llm.config.model_type}")
    elif chosen:
        raise UserError(
            f"--liger_kernel_config: Liger has no kernels for {llm.config.model_type}; leave the "
            "flag out, which uses its fused loss alone"
        )
    else:
        logger.warning("Liger has no kernels for %s: its fused loss alone", llm.config.model_type)
    if fused:
        head = model.llava.lm_head
        off = "or pass --liger_kernel_config '{\"fused_linear_cross_entropy\": false}'"
        if zero3:
            raise UserError(
                "--use_liger_kernel True: the fused loss does not work on parameters that ZeRO-3 "
                f"keeps in parts; use zero_configs/zero2.json, {off}"
            )
        if type(head) is not nn.Linear:
            raise UserError(
                f"--use_liger_kernel True: the fused loss needs a plain linear head, this one is "
                f"{type(head).__name__}; leave the flag out, {off}"
            )
        try:
            # Weight gradients are summed up over chunks of tokens: in float32, as one product is.
            loss = LigerFusedLinearCrossEntropyLoss(reduction="sum", accum_dtype=torch.float32)
        except TypeError as error:
            raise UserError(
                f"--use_liger_kernel True: this liger-kernel is too old ({error}); "
                "`pip install -U liger-kernel`"
            ) from None

        def fused_loss(hidden_KD: Tensor, target_K: Tensor) -> Tensor:
            total: Tensor = loss(head.weight, hidden_KD, target_K, head.bias)
            return total.float()

        model.fused_loss = fused_loss
        used.append("fused linear cross-entropy")
    return " and ".join(used) or "nothing"
