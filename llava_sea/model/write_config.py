"""config.json and generation_config.json of a written checkpoint, for old and new readers."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlavaConfig

from llava_sea.conversation import Template
from llava_sea.data.tokenize import stop_ids

logger = logging.getLogger(__name__)

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


def written_config(live: LlavaConfig, *, image_token_id: int, rows: int) -> LlavaConfig:
    """Return a copy of a model's configuration with the token ``<image>`` in its vocabulary."""
    config = copy.deepcopy(live)
    text_config: Any = config.text_config
    config.image_token_index = image_token_id
    text_config.vocab_size = rows
    config.architectures = ["LlavaForConditionalGeneration"]
    config.tie_word_embeddings = bool(text_config.tie_word_embeddings)
    return config


def write_config(
    path: Path, config: LlavaConfig, dtype: torch.dtype, extra: Mapping[str, Any]
) -> None:
    """Write config.json; old names of settings stand beside the new ones."""
    content = config.to_diff_dict() | dict(extra)
    name = str(dtype).removeprefix("torch.")
    content |= {"dtype": name, "torch_dtype": name}
    for part in ("text_config", "vision_config"):
        content[part]["dtype"] = name
        content[part].pop("_name_or_path", None)  # a path on the training machine
    add_old_rope(content["text_config"])
    path.write_text(json.dumps(content, indent=2, sort_keys=True, default=str) + "\n")


def add_old_rope(text_config: dict[str, Any]) -> None:
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


def write_generation_config(
    folder: Path, live: GenerationConfig, template: Template, tokenizer: Any, pad_token_id: int
) -> None:
    """Write generation_config.json: a valid one, whatever the base model came with.

    Vicuna's has a temperature but no `do_sample`, which transformers refuses to save. An answer
    ends at the template's end token, whatever the base model ended at.
    """
    settings = {
        key: value
        for key, value in live.to_diff_dict().items()
        if not key.startswith("_") and (live.do_sample or key not in SAMPLING)
    }
    required = {
        "eos_token_id": end_token_ids(live.eos_token_id, template, tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": pad_token_id,
    }
    try:
        GenerationConfig(**settings | required).save_pretrained(folder)
    except ValueError as error:
        logger.warning("the base model's generation settings are left out: %s", error)
        GenerationConfig(**required).save_pretrained(folder)


def end_token_ids(former: int | list[int] | None, template: Template, tokenizer: Any) -> list[int]:
    """Return the ids that end an answer: the base model's and the template's."""
    ids = [former] if isinstance(former, int) else list(former or [])
    return list(dict.fromkeys([*ids, *stop_ids(template, tokenizer)]))
