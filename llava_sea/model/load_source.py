"""Checkpoint folders: what one holds, told by its files and config.json, never by its name.

LLaVA's config.json holds the LLM's settings and ``mm_*`` keys in one flat dictionary, names the
vision tower instead of describing it, and calls itself ``llava_llama``, ``llava_mistral`` or, in
the released 1.5 models, ``llava``, which is also transformers' name for something else. Accepted
are a two-layer GELU projector and plain patches (LLaVA-1.5); anything else is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from llava_sea.errors import UserError
from llava_sea.files import read_object
from llava_sea.model.load_weights import check_exists, listing, weight_files
from llava_sea.model.lora import ADAPTER_CONFIG

HF, LLAVA, PROJECTOR, LORA = (
    "a llava-hf checkpoint",
    "a LLaVA-1.5 checkpoint",
    "a projector with its config.json",
    "a LoRA adapter",
)
_LLAVA_KEY = re.compile(
    r"(mm_|image_|tokenizer_|tune_|freeze_|unfreeze_|use_mm_|pretrain_mm_|conversation_template)"
)
_IDENTITY = ("model_type", "architectures", "_name_or_path", "transformers_version", "auto_map")
_ALIASES = {"llava": "llama", "qwen": "qwen2"}  # LLaVA-1.5 as released; LLaVA-NeXT


def find_folder(path: str, cache_dir: str | None, flag: str = "--model-path") -> Path:
    """Return a checkpoint's folder; another path is a hub id, taken from the cache or the hub."""
    if Path(path).is_dir():
        return Path(path)
    check_exists(path, flag)
    try:
        return Path(snapshot_download(path, cache_dir=cache_dir))
    except (OSError, ValueError) as error:  # all errors of the hub are one of these
        raise UserError(
            f"{flag} {path}: no such folder, and not to be had from the hub "
            f"({str(error).splitlines()[0]})"
        ) from None


def recognise(folder: Path) -> str:
    """Say which kind of checkpoint a folder holds."""
    if (folder / ADAPTER_CONFIG).is_file():
        return LORA
    config = read_config(folder)
    if weight_files(folder):
        if is_hf(config) and config.get("model_type") == "llava":
            return HF
        if has_llava_config(config):
            return LLAVA
    elif (folder / "mm_projector.bin").is_file():
        if not config:
            raise UserError(
                f"{folder}: a mm_projector.bin without the config.json that LLaVA writes beside "
                "it; to train from it pass it as --pretrain_mm_mlp_adapter"
            )
        return PROJECTOR
    says = f" (its config.json says {config['model_type']!r})" if "model_type" in config else ""
    raise UserError(
        f"{folder}: no checkpoint that can be loaded{says}. It holds: {listing(folder)}. Known "
        "are: llava-hf (config.json of type llava with text_config and vision_config, weights); "
        "LLaVA-1.5 (config.json with mm_vision_tower, weights); projector only (config.json, "
        f"mm_projector.bin); LoRA ({ADAPTER_CONFIG}, adapter_model.*, non_lora_trainables.bin)"
    )


_KINDS: dict[str, type] = {
    "conversation_template": str,
    "image_aspect_ratio": str,
    "llm_vocab_size": int,
    "mm_vision_select_layer": int,
    "mm_vision_tower": str,
    "tokenizer_model_max_length": int,
}


def read_config(folder: Path) -> dict[str, Any]:
    """Read a folder's config.json, {} if it has none; LLaVA's own keys are of their kind."""
    path = folder / "config.json"
    config = read_object(path) if path.is_file() else {}
    for key, kind in _KINDS.items():
        if not isinstance(config.get(key), (kind, type(None))):
            raise UserError(f"{path}: {key} cannot be {config[key]!r}; fix it")
    return config


def recorded_base(folder: Path) -> str:
    """Return the LLM or LLaVA that a projector or an adapter records; "" where there is none."""
    kind = recognise(folder)
    if kind == LORA:
        return str(read_object(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or "")
    return str(read_config(folder).get("_name_or_path") or "") if kind == PROJECTOR else ""


def is_hf(config: Mapping[str, Any]) -> bool:
    """Say whether a config.json is transformers' own for a Llava: two configurations in one."""
    return isinstance(config.get("text_config"), dict) and "vision_config" in config


def has_llava_config(config: Mapping[str, Any]) -> bool:
    """Say whether a config.json is LLaVA's: flat, with the name of a vision tower."""
    return not is_hf(config) and "mm_vision_tower" in config


def llm_settings(config: Mapping[str, Any], where: object) -> Any:
    """Return the LLM's configuration in a LLaVA config.json."""
    architectures = config.get("architectures") or [""]
    of_class = re.fullmatch(r"Llava(\w+?)ForCausalLM", str(architectures[0]))
    model_type = str(config.get("model_type", ""))
    kind = (of_class[1].lower() if of_class else "") or model_type.removeprefix("llava_")
    kind = _ALIASES.get(kind, kind)
    if kind not in CONFIG_MAPPING:
        raise UserError(
            f"{where}: model type {model_type!r} ({architectures[0] or 'no architecture'}) names "
            "no LLM that transformers knows; expected are llava_llama, llava_mistral and the like"
        )
    settings = {k: v for k, v in config.items() if k not in _IDENTITY and not _LLAVA_KEY.match(k)}
    if settings.get("rope_scaling", ...) is None:
        del settings["rope_scaling"]  # transformers 5 warns of the name, even without a value
    return AutoConfig.for_model(kind, **settings)


def check_is_1_5(config: Mapping[str, Any], where: Path) -> None:
    """Refuse what transformers' Llava cannot express."""
    projector = config.get("mm_projector_type", "linear")
    if projector != "mlp2x_gelu":
        raise UserError(
            f"{where}: mm_projector_type is {projector!r}; transformers' Llava has a two-layer "
            "GELU projector (mlp2x_gelu, LLaVA-1.5) and no other"
        )
    anyres = str(config.get("image_aspect_ratio")).startswith("anyres")
    if anyres or config.get("mm_patch_merge_type", "flat") != "flat":
        raise UserError(
            f"{where}: a LLaVA-1.6 model (anyres images); LLaVA-1.5 models are accepted. Use "
            "transformers' LlavaNext for it"
        )
    if config.get("mm_use_im_start_end"):
        raise UserError(
            f"{where}: mm_use_im_start_end is true: images stand between two tokens of their "
            "own, which no LLaVA-1.5 template writes"
        )
