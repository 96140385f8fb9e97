"""Checkpoints in: LLaVA-1.5's (whole, projector only, LoRA) and ``llava-hf`` ones, by content.

The result is always transformers' stock Llava as training has it. Every weight that is missing is
an error, every one that is not understood is named; torch files are opened with `weights_only`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from llava_sea.errors import UserError
from llava_sea.model import load_config
from llava_sea.model.builder import check_exists
from llava_sea.model.load_lora import ADAPTER_CONFIG
from llava_sea.model.load_parts import load_lora, load_projector_only
from llava_sea.model.load_source import (
    HF,
    LLAVA,
    LORA,
    PROJECTOR,
    Loaded,
    Source,
    find_folder,
    recognise,
)
from llava_sea.model.load_weights import read_json
from llava_sea.model.load_whole import load_hf, load_llava_1_5
from llava_sea.pretrained import load_pretrained

__all__ = ["Loaded", "embedding_rows", "is_llava", "load_llava"]

logger = logging.getLogger(__name__)

_LOADERS: dict[str, Callable[[Source], Loaded]] = {
    HF: load_hf,
    LLAVA: load_llava_1_5,
    PROJECTOR: load_projector_only,
    LORA: load_lora,
}


def is_llava(path: str, cache_dir: str | None = None) -> bool:
    """Say whether a folder or hub id is a LLaVA of any kind and no LLM alone, by what it holds."""
    folder = Path(path)
    if folder.is_dir():
        if (folder / ADAPTER_CONFIG).is_file() or (folder / "mm_projector.bin").is_file():
            return True
        if not (folder / "config.json").is_file():
            return False
        config = read_json(folder / "config.json")
    else:
        check_exists(path, "--model_name_or_path")
        config, _ = PreTrainedConfig.get_config_dict(path, cache_dir=cache_dir)
    return load_config.is_hf(config) or load_config.is_llava(config)


def embedding_rows(path: str, cache_dir: str | None = None) -> int:
    """Count the rows of the embedding table of an LLM, alone or in a LLaVA, by its config alone.

    Raises:
        UserError: if it is no language model.
    """
    check_exists(path, "--model_name_or_path")
    try:
        settings, _ = PreTrainedConfig.get_config_dict(path, cache_dir=cache_dir)
        if load_config.is_llava(settings):
            return int(load_config.llm_settings(settings, Path(path)).vocab_size)
        config: Any = load_pretrained(AutoConfig, path, cache_dir=cache_dir)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(
            f"--model_name_or_path {path}: {(str(error).splitlines() or [type(error).__name__])[0]}"
        ) from None
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and config.model_type != "llava":
        raise UserError(
            f"--model_name_or_path {path}: its model type is {config.model_type!r}, which is no "
            "language model; name the LLM"
        )
    return int(config.get_text_config().vocab_size)


def load_llava(
    path: str,
    *,
    model_base: str | None = None,
    vision_tower: str | None = None,
    dtype: torch.dtype | None = None,
    attention: str | None = None,
    cache_dir: str | None = None,
) -> Loaded:
    """Load a checkpoint of any of the four kinds.

    Args:
        path: folder or hub id.
        model_base: the LLM (or LLaVA) that a projector or an adapter was trained on, instead of the
            one recorded with it.
        vision_tower: folder or hub id of the vision tower, instead of the one recorded.
        dtype: of all weights; None keeps the dtype they are stored in.
        attention: transformers' name of the attention implementation.
        cache_dir: where hub files are cached.

    Raises:
        UserError: if the folder is none of these, or does not hold together; says what is there.
    """
    folder = find_folder(path, cache_dir)
    kind = recognise(folder)
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    logger.info("%s is %s", path, kind)
    if model_base and kind in (HF, LLAVA):
        raise UserError(
            f"--model-base {model_base}: {path} is {kind} and holds all weights; leave "
            "--model-base out"
        )
    source = Source(folder, config, model_base, vision_tower, dtype, attention, cache_dir)
    loaded = _LOADERS[kind](source)
    loaded.transform.check_fits(loaded.model.config.vision_config)
    if (folder / "generation_config.json").is_file():
        loaded.model.generation_config = GenerationConfig.from_pretrained(folder)
    return loaded
