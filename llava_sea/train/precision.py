"""How a run computes: the weights' dtype, TF32, the attention; the table of trained parts."""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers import AutoModel, LlamaConfig

from llava_sea.errors import UserError
from llava_sea.model.builder import without_zero3
from llava_sea.model.projector_io import check_reading
from llava_sea.model.towers import not_stock
from llava_sea.model.wrapped import WrappedLlava
from llava_sea.train.arguments import Arguments, TrainingArguments
from llava_sea.train.saving import count

logger = logging.getLogger(__name__)


def weights_dtype(args: TrainingArguments) -> torch.dtype:
    """Return the dtype of the weights by the flags."""
    return torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32


def check_attention(name: str, dtype: torch.dtype) -> None:
    """Ask transformers for an attention on a model without layers, before a real one is loaded."""
    config = LlamaConfig(vocab_size=8, hidden_size=8, num_attention_heads=1, num_hidden_layers=0)
    try:
        with torch.device("meta"), without_zero3():
            AutoModel.from_config(
                config, attn_implementation=name, dtype=dtype, trust_remote_code=False
            )
    except (ImportError, ValueError) as error:
        raise UserError(
            f"--attn_implementation {name}: {error} Leave the flag out (train_mem.py then takes "
            "the fastest that there is), or pass sdpa"
        ) from None


def build_options(arguments: Arguments) -> dict[str, Any]:
    """Return what `build_llava` takes from the flags, by name, and log how the run computes.

    Raises:
        UserError: if transformers does not have the flag's attention, or not on this machine; if
            the projector was trained on other hidden states.
    """
    model_args, _, _, args = arguments
    dtype, attention = weights_dtype(args), args.attn_implementation
    if attention:
        check_attention(attention, dtype)
    if projector := model_args.pretrain_mm_mlp_adapter:
        read = model_args.mm_vision_select_layer, model_args.mm_vision_select_feature
        check_reading(projector, *read)
    logger.info("weights in %s, attention %s", dtype, attention or "as transformers chooses")
    return {
        "llm_path": model_args.model_name_or_path,
        "tower_path": str(model_args.vision_tower),
        "select_layer": model_args.mm_vision_select_layer,
        "keep_cls": model_args.mm_vision_select_feature == "cls_patch",
        "projector_path": model_args.pretrain_mm_mlp_adapter,
        "seed": args.seed,
        "cache_dir": args.cache_dir,
        "dtype": dtype,
        "attention": attention,
    }


def log_trainable(model: WrappedLlava) -> None:
    """Log the numbers of trained and of frozen parameters, and what a stock llava cannot do."""
    if reason := not_stock(model.config):
        logger.warning(reason)
    logger.info("%-16s %14s %14s", "part", "trainable", "frozen")
    for name, modules in model.parts().items():
        parameters = {p for module in modules for p in module.parameters()}
        numbers = (count(p for p in parameters if p.requires_grad is on) for on in (True, False))
        logger.info("%-16s %14s %14s", name, *(f"{number:,}" for number in numbers))


def describe(model: WrappedLlava) -> str:
    """Return a line with the dtypes, TF32 and attention of a run."""
    dtypes = {
        kind: sorted(
            {
                str(p.dtype).removeprefix("torch.")
                for p in model.parameters()
                if p.requires_grad is trained and p.dtype.is_floating_point
            }
        )
        for kind, trained in (("frozen", False), ("trained", True))
    }
    weights = ", ".join(f"{kind} {'/'.join(names)}" for kind, names in dtypes.items() if names)
    tf32 = "no GPU"
    if torch.cuda.is_available():
        matmul = torch.backends.cuda.matmul
        # Older torch has the flag alone; from 2.9 on, reading it fails once the new name is set.
        precision = getattr(matmul, "fp32_precision", None)
        tf32 = "on" if (matmul.allow_tf32 if precision is None else precision == "tf32") else "off"
    parts: dict[str, Any] = {"LLM": model.language_model, "tower": model.vision_tower}
    attention = ", ".join(f"{n} {p.config._attn_implementation}" for n, p in parts.items())
    return f"weights {weights}; TF32 {tf32}; attention {attention}"
