"""Settings of a written checkpoint, under their old names too, as transformers 4 reads them."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlavaConfig
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from llava_sea.constants import IMAGE_TOKEN
from llava_sea.data.images import ImageTransform
from llava_sea.model.towers import TOWERS

logger = logging.getLogger(__name__)

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


def write_config(path: Path, settings: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Write config.json, of a Llava or of an LLM; settings are as `to_diff_dict` gives them."""
    content = copy.deepcopy(dict(settings))
    name = str(dtype).removeprefix("torch.")
    for part in ("text_config", "vision_config"):
        if part in content:
            content[part]["dtype"] = name
            content[part].pop("_name_or_path", None)  # a path on the training machine
    content |= {"dtype": name, "torch_dtype": name}
    _add_old_rope(content.get("text_config", content))
    path.write_text(json.dumps(content, indent=2, sort_keys=True, default=str) + "\n")


def _add_old_rope(text_config: dict[str, Any]) -> None:
    """Write `rope_theta` as well: transformers 4 takes 10,000 where it finds `rope_parameters`."""
    rope = text_config.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" not in rope:
        return
    for name in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
        if name in rope:
            text_config[name] = rope[name]
    kind = rope.get("rope_type", "default")
    if kind == "longrope":  # Phi-3 in transformers 4 takes these three and no other
        factors = {name: rope[name] for name in ("short_factor", "long_factor")}
        text_config["rope_scaling"] = {"type": kind, **factors}
    elif kind != "default":
        above = ("rope_theta", "partial_rotary_factor")
        text_config["rope_scaling"] = {k: v for k, v in rope.items() if k not in above}


def end_ids(config: GenerationConfig) -> list[int]:
    """Return the tokens that end an answer; a configuration names one, several or none."""
    ends = config.eos_token_id
    return [ends] if isinstance(ends, int) else list(ends or [])


def valid_generation_config(
    live: GenerationConfig, tokenizer: Any, ends: Sequence[int], pad_token_id: int
) -> GenerationConfig:
    """Return generation settings that transformers saves, whatever the base model came with.

    Vicuna's have a temperature but no `do_sample`, which transformers refuses to save: settings of
    sampling stay only where `do_sample` is. `ends` are the tokens that end an answer.
    """
    settings = {
        key: value
        for key, value in live.to_diff_dict().items()
        if not key.startswith("_") and (live.do_sample or key not in _SAMPLING)
    }
    required = {
        "eos_token_id": list(dict.fromkeys(ends)),
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": pad_token_id,
    }
    try:
        config = GenerationConfig(**settings | required)
        config.validate(strict=True)
    except ValueError as error:
        logger.warning("the base model's generation settings are left out: %s", error)
        config = GenerationConfig(**required)
    return config


def write_processor(folder: Path, transform: ImageTransform, config: LlavaConfig) -> None:
    """Write ``preprocessor_config.json`` and ``processor_config.json``.

    A model trained on padded images gets the image processor that pads (`LlavaImageProcessor`),
    one trained on centre crops its tower's own.
    """
    image_processor = transform.processor
    if transform.aspect_ratio == "pad":
        height, width = transform.resolution
        image_processor = LlavaImageProcessorPil(
            do_pad=True,
            do_resize=True,
            size=dict(image_processor.size),
            resample=image_processor.resample,
            do_center_crop=bool(image_processor.do_center_crop),
            crop_size={"height": height, "width": width},
            do_rescale=image_processor.do_rescale,
            rescale_factor=image_processor.rescale_factor,
            do_normalize=image_processor.do_normalize,
            image_mean=image_processor.image_mean,
            image_std=image_processor.image_std,
            do_convert_rgb=True,
        )
    content = image_processor.to_dict()
    content["image_processor_type"] = content["image_processor_type"].removesuffix("Pil")
    content["processor_class"] = "LlavaProcessor"
    vision_config: Any = config.vision_config
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": IMAGE_TOKEN,
        "patch_size": vision_config.patch_size,
        "num_additional_image_tokens": int(TOWERS[vision_config.model_type].has_cls),
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
    }
    for name, settings in (("preprocessor", content), ("processor", processor)):
        text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
        (folder / f"{name}_config.json").write_text(text, encoding="utf-8")
