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
from llava_sea.model.builder import check_exists
from llava_sea.model.load_config import is_hf, is_llava
from llava_sea.model.load_lora import ADAPTER_CONFIG
from llava_sea.model.load_tokenizer import load_training_tokenizer
from llava_sea.model.load_weights import listing, read_json, weight_files

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


def find_folder(path: str, cache_dir: str | None, flag: str = "--model-path") -> Path:
    """Return a checkpoint's folder; what is no folder is a hub id, taken from the cache or the hub.

    Args:
        path: folder or hub id.
        cache_dir: where hub files are cached.
        flag: what messages call it.

    Raises:
        UserError: if it is neither.
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
    """Say what a folder holds.

    Raises:
        UserError: if it is none of the kinds known; lists what is there and what each kind has.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        return LORA
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
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


def recorded_base(folder: Path) -> str:
    """Return the LLM or LLaVA that a projector or an adapter records; "" where there is none."""
    name, key = {
        LORA: (ADAPTER_CONFIG, "base_model_name_or_path"),
        PROJECTOR: ("config.json", "_name_or_path"),
    }.get(recognise(folder), ("", ""))
    return str(read_json(folder / name).get(key) or "") if name else ""


def tower_of(source: Source) -> str:
    """Return the vision tower given, else the one recorded.

    Raises:
        UserError: if there is neither.
    """
    tower = source.vision_tower or source.config.get("mm_vision_tower")
    if not tower:
        raise UserError(
            f"{source.folder}: its config.json names no vision tower (mm_vision_tower); pass one "
            "with --vision_tower"
        )
    return str(tower)


def with_parts(
    source: Source, model: LlavaForConditionalGeneration, tokenizer: str, tower: str, kind: str
) -> Loaded:
    """Add tokenizer and image transform to a model whose folder has LLaVA's config.json."""
    ratio = str(source.config.get("image_aspect_ratio") or "square")
    length = source.config.get("tokenizer_model_max_length")
    llm: Any = model.config.text_config
    return Loaded(
        model=model,
        tokenizer=load_training_tokenizer(
            tokenizer,
            model_max_length=length,
            model_type=llm.model_type if kind == LLAVA else None,
            cache_dir=source.cache_dir,
        ),
        transform=ImageTransform.from_pretrained(tower, ratio),
        vision_tower=tower,
        version=source.config.get("conversation_template"),
        kind=kind,
    )
