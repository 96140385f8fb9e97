"""What a checkpoint folder is, told by its files and its config.json, never by its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase

from llava_sea.data.images import ImageTransform
from llava_sea.errors import UserError
from llava_sea.model.load_config import is_hf, is_llava
from llava_sea.model.load_lora import ADAPTER_CONFIG
from llava_sea.model.load_weights import check_exists, listing, read_json, weight_files

HF, LLAVA, PROJECTOR, LORA = (
    "a llava-hf checkpoint",
    "a LLaVA-1.5 checkpoint",
    "a projector with its config.json",
    "a LoRA adapter",
)


@dataclass
class Loaded:
    """A model and what belongs to it."""

    model: LlavaForConditionalGeneration
    """The stock Llava; `config.image_token_index` is no token (the vocabulary's size)."""
    tokenizer: PreTrainedTokenizerBase
    transform: ImageTransform
    vision_tower: str
    """Where the vision tower came from, as recorded or given."""
    version: str | None
    """The ``--version`` it was trained with, if the checkpoint says so."""
    kind: str
    """What the folder was recognised as."""

    @property
    def image_aspect_ratio(self) -> str:
        """``square`` or ``pad``."""
        return self.transform.aspect_ratio


@dataclass(frozen=True)
class Source:
    """Where to load from, and how: `load_llava`'s arguments, the folder found, its config.json."""

    folder: Path
    config: dict[str, Any]
    model_base: str | None
    vision_tower: str | None
    dtype: torch.dtype | None
    attention: str | None
    cache_dir: str | None

    @property
    def attention_option(self) -> dict[str, Any]:
        """The keyword of `from_pretrained`, if an attention was asked for."""
        return {"attn_implementation": self.attention} if self.attention else {}


def find_folder(path: str, cache_dir: str | None, flag: str = "--model-path") -> Path:
    """Return a checkpoint's folder; what is no folder is a hub id, taken from the cache or the hub.

    Raises:
        UserError: if it is neither; `flag` is what named it.
    """
    if Path(path).is_dir():
        return Path(path)
    check_exists(path, flag)
    try:
        return Path(snapshot_download(path, cache_dir=cache_dir))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise UserError(
            f"{flag} {path}: no such folder, and not to be had from the hub "
            f"({str(error).splitlines()[0]})"
        ) from None


def recognise(folder: Path) -> str:
    """Say what a folder holds, by its files and its config.json, never by its name.

    Raises:
        UserError: if it is none of the kinds known; lists what is there and what each kind has.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        return LORA
    config = read_config(folder)
    if weight_files(folder):
        if is_hf(config) and config.get("model_type") == "llava":
            return HF
        if is_llava(config):
            return LLAVA
    elif (folder / "mm_projector.bin").is_file():
        if not config:
            raise UserError(
                f"{folder}: a mm_projector.bin without the config.json that LLaVA writes beside "
                "it; to train from it pass it as --pretrain_mm_mlp_adapter"
            )
        return PROJECTOR
    is_what = f" (its config.json says {config['model_type']!r})" if "model_type" in config else ""
    raise UserError(
        f"{folder}: no checkpoint that can be loaded{is_what}. It holds: {listing(folder)}. Known "
        "are: llava-hf (config.json of type llava with text_config and vision_config, weights); "
        "LLaVA-1.5 (config.json with mm_vision_tower, weights); projector only (config.json, "
        f"mm_projector.bin); LoRA ({ADAPTER_CONFIG}, adapter_model.*, non_lora_trainables.bin)"
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Read a folder's config.json, {} if it has none."""
    path = folder / "config.json"
    return read_json(path) if path.is_file() else {}


def recorded_base(folder: Path) -> str:
    """Return the LLM or LLaVA that a projector or an adapter records; "" where there is none."""
    name, key = {
        LORA: (ADAPTER_CONFIG, "base_model_name_or_path"),
        PROJECTOR: ("config.json", "_name_or_path"),
    }.get(recognise(folder), ("", ""))
    return str(read_json(folder / name).get(key) or "") if name else ""
