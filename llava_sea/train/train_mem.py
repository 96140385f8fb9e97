"""`train.py` with the fastest attention this machine has: FlashAttention, else SDPA (LLaVA's name).

Nothing depends on flash-attn; what is used is logged.
"""

from __future__ import annotations

import importlib
import logging

import torch
from transformers import utils

from llava_sea.errors import run_command
from llava_sea.train.train import train

logger = logging.getLogger(__name__)

# transformers' name -> (module it comes in, lowest and highest CUDA major version it runs on)
FLASH_ATTENTION = {
    "flash_attention_4": ("flash_attn.cute", 9, 12),
    "flash_attention_3": ("flash_attn_interface", 9, 9),
    "flash_attention_2": ("flash_attn", 8, 12),
}


def pick_attention(dtype: torch.dtype) -> str:
    """Return transformers' name of the fastest attention installed here for weights of `dtype`."""
    if dtype == torch.float32 or not torch.cuda.is_available():
        return "sdpa"
    return next((name for name in FLASH_ATTENTION if can_use(name)), "sdpa")


def can_use(name: str) -> bool:
    """Say whether a FlashAttention of `FLASH_ATTENTION` is installed and runs on this GPU."""
    module, lowest, highest = FLASH_ATTENTION[name]
    is_installed = getattr(utils, f"is_{name.replace('attention', 'attn')}_available", None)
    if is_installed is None or not is_installed():
        return False
    major, _ = torch.cuda.get_device_capability()
    return lowest <= major <= highest and _can_import(module)


def _can_import(module: str) -> bool:
    """A build for another torch fails here with ImportError or OSError; that must not end a run."""
    try:
        importlib.import_module(module)
    except Exception as error:
        logger.warning("%s is installed but cannot be imported (%s); not used", module, error)
        return False
    return True


if __name__ == "__main__":
    run_command(lambda: train(pick_attention))
