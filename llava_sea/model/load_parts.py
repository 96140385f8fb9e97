"""Parts of a model, put together with the rest: a projector alone, or a LoRA adapter."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, LlavaForConditionalGeneration

from llava_sea.data.images import ImageTransform
from llava_sea.errors import UserError
from llava_sea.model.builder import build_llava, check_exists
from llava_sea.model.load_config import check_is_1_5, is_hf, is_llava, tower_config
from llava_sea.model.load_lora import check_base, load_whole, merge_adapter, read_adapter_config
from llava_sea.model.load_source import (
    LORA,
    PROJECTOR,
    Loaded,
    Source,
    find_folder,
    recorded_base,
    tower_of,
    with_parts,
)
from llava_sea.model.load_weights import read_json, read_tensors
from llava_sea.model.load_whole import load_hf, load_llava_1_5
from llava_sea.model.projector_io import LLAVA_TO_HF
from llava_sea.pretrained import load_pretrained

logger = logging.getLogger(__name__)


def load_projector_only(source: Source) -> Loaded:
    """Load a stage-1 result: the projector from the folder, LLM and tower from elsewhere."""
    base = source.model_base or recorded_base(source.folder)
    if not base:
        raise UserError(
            f"{source.folder}: a projector alone, and its config.json does not record its LLM "
            "(_name_or_path); name it with --model-base"
        )
    return _assemble(source, base, PROJECTOR, str(source.folder / "mm_projector.bin"))


def load_lora(source: Source) -> Loaded:
    """Load a base, put in what was trained whole, and merge the adapter."""
    adapter = read_adapter_config(source.folder)
    given = source.model_base or recorded_base(source.folder)
    if not given:
        raise UserError(f"{source.folder}: records no base model; name it with --model-base")
    base_folder = find_folder(given, source.cache_dir, "--model-base")
    base_config = read_json(base_folder / "config.json")
    has_projector = is_hf(base_config) or is_llava(base_config)
    if has_projector:
        loaded = _on_llava(source, base_folder, base_config)
    else:
        loaded = _assemble(source, given, LORA)
    check_base(source.folder, adapter, given, loaded.model)
    trained_whole = _load_trained_whole(source, loaded.model)
    layers, others = merge_adapter(loaded.model, source.folder, adapter)
    if not has_projector and not any("projector" in name for name in trained_whole + others):
        raise UserError(
            f"{source.folder}: its base {given} is a plain LLM, and the trained projector "
            "(non_lora_trainables.bin or mm_projector.bin) is not there. LLaVA writes it at the "
            "end of training only; without it the model cannot see"
        )
    logger.info(
        "merged the LoRA updates of %d layers into %s: added in float32, kept in %s",
        layers,
        given,
        str(loaded.model.dtype).removeprefix("torch."),
    )
    return loaded


def _on_llava(source: Source, folder: Path, config: dict[str, Any]) -> Loaded:
    """Load a base that is a LLaVA itself; what the adapter's config.json says goes before."""
    of_base = dataclasses.replace(source, folder=folder, config=config, model_base=None)
    base = load_hf(of_base) if is_hf(config) else load_llava_1_5(of_base)
    ratio = source.config.get("image_aspect_ratio") or base.image_aspect_ratio
    return dataclasses.replace(
        base,
        transform=ImageTransform(base.transform.processor, ratio),
        version=source.config.get("conversation_template") or base.version,
        kind=LORA,
    )


def _assemble(source: Source, base: str, kind: str, projector_path: str | None = None) -> Loaded:
    """Build a model from an LLM and the tower that the folder names."""
    if not source.config:
        raise UserError(
            f"{source.folder}: no config.json, and so no word of its vision tower. "
            "LLaVA writes it, and the trained projector, at the end of LoRA training only: of its "
            "checkpoint-N folders nothing whole can be made"
        )
    check_is_1_5(source.config, source.folder)
    tower = tower_of(source)
    tower_config(tower, source.folder, source.cache_dir)
    model = build_llava(
        base,
        tower,
        dtype=source.dtype or _stored_dtype(base, source.cache_dir),
        attention=source.attention,
        select_layer=int(source.config.get("mm_vision_select_layer", -2)),
        projector_path=projector_path,
        cache_dir=source.cache_dir,
    )
    return with_parts(source, model, base, tower, kind)


def _stored_dtype(base: str, cache_dir: str | None) -> torch.dtype:
    check_exists(base, "--model-base")
    try:
        dtype = load_pretrained(AutoConfig, base, cache_dir=cache_dir).dtype
    except (OSError, ValueError) as error:
        raise UserError(
            f"--model-base {base}: cannot be loaded ({str(error).splitlines()[0]})"
        ) from None
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def _load_trained_whole(source: Source, model: LlavaForConditionalGeneration) -> list[str]:
    """Put `non_lora_trainables.bin`, or else `mm_projector.bin`, in place; name its tensors."""
    for name in ("non_lora_trainables.bin", "mm_projector.bin"):
        path = source.folder / name
        if path.is_file():
            weights = read_tensors(path)
            bare = LLAVA_TO_HF if name == "mm_projector.bin" else {}
            named = {f"mm_projector.{k}" if k in bare else k: t for k, t in weights.items()}
            return load_whole(model, named, path)
    return []
