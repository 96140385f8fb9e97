"""Checkpoints out: the ``llava-hf`` layout, which transformers 4 and 5, vLLM and others open.

Training never grows the vocabulary; only here the token ``<image>`` is added. Neither the live
model nor its tokenizer is changed, and an earlier save in the folder stays whole until the new one
is complete. One shard of weights is in memory at a time. Settings stand under their old names too,
as transformers 4 reads them.

The two tables of the vocabulary may grow while they are written. A new row is the mean of the
original ones: its logit is then the mean of theirs, which is never above the largest of them (and
equal only if all are), so a new token is never the most likely one.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Size, Tensor
from transformers import (
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerBase,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from llava_sea.constants import IMAGE_TOKEN
from llava_sea.conversation import Template
from llava_sea.data.images import ImageTransform
from llava_sea.data.tokenize import padding_id, stop_ids
from llava_sea.errors import UserError, naming
from llava_sea.model.chat_template import choose_chat_template
from llava_sea.model.names import EMBEDDING, HEAD, check_fit, shapes_of, some, to_written
from llava_sea.model.tokenizer import with_image_token, write_tokenizer
from llava_sea.model.towers import prefix_tokens, surplus_tokens
from llava_sea.model.write_files import replaced_together

logger = logging.getLogger(__name__)

ROWS_MULTIPLE = 64
"""The vocabulary's tables grow to a multiple of this, as those of llava-hf: faster on GPUs."""

LLM_ROWS = "llm_vocab_size"
"""Key of config.json: how many rows of the tables are the LLM's own; the rest was appended here."""

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


def write_llava(
    folder: str | Path,
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    transform: ImageTransform,
    template: Template,
    *,
    state_dict: Mapping[str, Tensor] | None = None,
    extra_config: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    max_shard_size: str | int = "5GB",
) -> list[str]:
    """Write a model with everything that belongs to it; return the names of the files.

    Args:
        folder: where to; other files in it are left alone.
        model: a stock Llava, as training has it. Only its configuration is read if `state_dict` is
            given.
        tokenizer: of the training.
        transform: of the training; decides whether users' images are padded or cropped.
        template: of the training; becomes the chat template.
        state_dict: the weights under the model's own names, for an engine that keeps them apart
            (ZeRO-3); call this on one rank then.
        extra_config: further keys of config.json.
        dtype: of the weights; None takes the embedding's.
        max_shard_size: of one file of weights: bytes, or like ``5GB`` (5 * 10^9).
    """
    state = dict(model.state_dict() if state_dict is None else state_dict)
    llm_rows = rows = len(state[EMBEDDING])
    written_tokenizer = with_image_token(tokenizer)
    image_token_id: Any = written_tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    if image_token_id >= rows:
        rows = -(-(image_token_id + 1) // ROWS_MULTIPLE) * ROWS_MULTIPLE
    config = copy.deepcopy(model.config)
    text_config: Any = config.text_config
    vision_config: Any = config.vision_config
    text_config.vocab_size = rows
    config.image_token_index = image_token_id
    config.architectures = ["LlavaForConditionalGeneration"]
    config.tie_word_embeddings = bool(text_config.tie_word_embeddings)
    config.pad_token_id = padding_id(tokenizer, rows)
    expected = shapes_of(config)
    if config.tie_word_embeddings:
        state.pop(HEAD, None)
        del expected[HEAD]
    if unknown := state.keys() - expected.keys():
        raise UserError(f"no stock Llava's weights, so they cannot be written: {some(unknown)}")
    check_fit({n: written_shape(n, t, rows) for n, t in state.items()}, expected, folder)
    dtype = dtype or state[EMBEDDING].dtype
    if text_config.model_type.startswith("gemma"):
        logger.warning(
            "a Gemma: readers that scale all that enters the LLM (transformers 4) scale images "
            "too and get them wrong; open this checkpoint with transformers 5 or later"
        )
    chat = choose_chat_template(template, tokenizer, written_tokenizer)
    if chat.difference:
        logger.warning(
            "the chat template cannot equal --version %s token for token with this tokenizer: %s",
            template.name,
            chat.difference,
        )
    ends = [*end_ids(model.generation_config), *stop_ids(template, tokenizer)]
    generation_config = valid_generation_config(
        model.generation_config, tokenizer, ends, config.pad_token_id
    )
    settings = {
        LLM_ROWS: llm_rows,
        **config.to_diff_dict(),
        "image_aspect_ratio": transform.aspect_ratio,
        "tokenizer_model_max_length": int(tokenizer.model_max_length),
        "conversation_template": template.name,
        "mm_vision_tower": vision_config.name_or_path or None,
        **(extra_config or {}),
    }
    names = {to_written(name, vision_config.model_type): name for name in state}
    with replaced_together(Path(folder)) as staging:
        _write_weights(staging, state, names, rows, dtype, max_shard_size)
        write_tokenizer(staging, written_tokenizer, chat.jinja, "LlavaProcessor")
        write_processor(staging, transform, config)
        generation_config.save_pretrained(staging)
        write_config(staging / "config.json", settings, dtype)
        return sorted(path.name for path in staging.iterdir())


def written_shape(name: str, tensor: Tensor, rows: int) -> Size:
    """Return the shape that a weight has on disk: the vocabulary's tables have `rows`."""
    return Size((rows, *tensor.shape[1:])) if name in (EMBEDDING, HEAD) else tensor.shape


def grow(table_VD: Tensor, rows: int) -> Tensor:
    """Append the mean row until there are `rows`: ``(V, D)`` -> ``(rows, D)``."""
    missing = rows - len(table_VD)
    if missing <= 0:
        return table_VD
    mean_D = table_VD.mean(dim=0, dtype=torch.float32).to(table_VD.dtype)
    return torch.cat([table_VD, mean_D.expand(missing, -1)])


def _write_weights(
    folder: Path,
    state: Mapping[str, Tensor],
    names: Mapping[str, str],
    rows: int,
    dtype: torch.dtype,
    max_shard_size: str | int,
) -> None:
    """Write ``model*.safetensors`` and, with several shards, their index; `names` are on disk."""
    with torch.device("meta"):  # sizes alone: nothing is copied before its shard's turn
        sizes = {
            written: torch.empty(written_shape(name, state[name], rows), dtype=dtype)
            for written, name in names.items()
        }
    split = split_torch_state_dict_into_shards(
        sizes, filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_size
    )
    for file_name, members in split.filename_to_tensors.items():
        shard = {}
        for written in members:
            tensor = state[names[written]].detach().to("cpu", dtype)
            if names[written] in (EMBEDDING, HEAD):
                tensor = grow(tensor, rows)
            shard[written] = tensor.contiguous()
        path = folder / file_name
        with naming(path):
            path.touch()
            mode = path.stat().st_mode  # as the umask has it; safetensors' is the owner's alone
            save_file(shard, path, metadata={"format": "pt"})
            path.chmod(mode)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / "model.safetensors.index.json").write_text(text)


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
        "num_additional_image_tokens": prefix_tokens(vision_config) - surplus_tokens(config),
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
    }
    for name, settings in (("preprocessor", content), ("processor", processor)):
        text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
        (folder / f"{name}_config.json").write_text(text, encoding="utf-8")
