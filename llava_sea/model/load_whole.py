"""Whole models: a ``llava-hf`` checkpoint, or LLaVA-1.5's own.

Both go through `from_pretrained` with renamed weights that are mapped from disk, so ZeRO-3
partitions them as they come in and nothing is held twice.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration

from llava_sea.data.images import ImageTransform
from llava_sea.errors import UserError
from llava_sea.model.builder import load_tower, quiet_transformers, without_zero3
from llava_sea.model.load_config import llava_config, tower_config
from llava_sea.model.load_names import Renamed, check_fit, rename, some
from llava_sea.model.load_source import HF, LLAVA, Loaded, Source, tower_of, with_parts
from llava_sea.model.load_tokenizer import load_training_tokenizer
from llava_sea.model.load_weights import read_weights
from llava_sea.pretrained import load_pretrained, without_code

logger = logging.getLogger(__name__)

TOWER = "model.vision_tower."


def load_hf(source: Source) -> Loaded:
    """Load a ``llava-hf`` checkpoint: this package's own, or others'."""
    config = LlavaConfig.from_dict(without_code(source.config))
    text_config: Any = config.text_config
    config.image_token_index = text_config.vocab_size
    model = _instantiate(source, config, rename(read_weights(source.folder), source.folder))
    path = str(source.folder)
    recorded = str(source.config.get("mm_vision_tower") or path)
    if source.vision_tower and source.vision_tower != recorded:
        logger.warning(
            "%s holds its own vision tower (from %s); --vision_tower %s is not used",
            path,
            recorded,
            source.vision_tower,
        )
    has_json = (source.folder / "tokenizer.json").is_file()
    return Loaded(
        model=model,
        tokenizer=load_training_tokenizer(
            path,
            model_max_length=source.config.get("tokenizer_model_max_length"),
            # with tokenizer.json transformers reads that, whatever the model is called
            model_type=None if has_json else text_config.model_type,
        ),
        transform=ImageTransform.from_pretrained(path, source.config.get("image_aspect_ratio")),
        vision_tower=recorded,
        version=source.config.get("conversation_template"),
        kind=HF,
    )


def load_llava_1_5(source: Source) -> Loaded:
    """Load a whole LLaVA-1.5 checkpoint; the tower's weights may be in it or only named."""
    tower = tower_of(source)
    config = llava_config(
        source.config, tower_config(tower, source.folder, source.cache_dir), source.folder
    )
    renamed = rename(read_weights(source.folder), source.folder)
    if any(name.startswith(TOWER) for name in renamed.weights):
        model = _instantiate(source, config, renamed)
    else:
        model = _instantiate(source, config, renamed, without_tower=True)
        model.model.vision_tower = load_tower(
            tower,
            cache_dir=source.cache_dir,
            dtype=model.dtype,
            **({"attn_implementation": source.attention} if source.attention else {}),
        )
    return with_parts(source, model, str(source.folder), tower, LLAVA)


def _instantiate(
    source: Source, config: LlavaConfig, renamed: Renamed, *, without_tower: bool = False
) -> LlavaForConditionalGeneration:
    """Make the model from renamed weights, after comparing every name and shape with it."""
    try:
        with torch.device("meta"), without_zero3():
            shell = LlavaForConditionalGeneration(config)
    except ValueError as error:  # a configuration that belongs to no model
        raise UserError(
            f"{source.folder}: its config.json has a part that transformers cannot make "
            f"({str(error).splitlines()[0]})"
        ) from None
    text_config: Any = config.text_config
    tied = bool(text_config.tie_word_embeddings)
    check_fit(
        renamed,
        {name: tensor.shape for name, tensor in shell.state_dict().items()},
        source.folder,
        optional=(TOWER,) * without_tower + ("lm_head.",) * tied,
    )
    _report(source.folder, renamed)
    options: dict[str, Any] = {"attn_implementation": source.attention} if source.attention else {}
    with quiet_transformers():
        model: LlavaForConditionalGeneration = load_pretrained(
            LlavaForConditionalGeneration,
            None,
            config=config,
            state_dict=renamed.weights,
            dtype=source.dtype or _stored_dtype(renamed.weights),
            **options,
        )
    return model


def _stored_dtype(weights: Mapping[str, Tensor]) -> torch.dtype:
    return weights["model.language_model.embed_tokens.weight"].dtype


def _report(folder: Path, renamed: Renamed) -> None:
    if renamed.left_out:
        logger.info("%s: of no use and left out: %s", folder, some(renamed.left_out))
    if renamed.unknown:
        logger.warning(
            "%s: weights that no Llava has were left out: %s",
            folder,
            some(renamed.unknown, limit=100),
        )
