"""Checkpoints out: the ``llava-hf`` layout, which transformers 4 and 5, vLLM and others open.

Training never grows the vocabulary; only here the token ``<image>`` is added. Neither the live
model nor its tokenizer is changed, and an earlier save in the folder stays whole until the new one
is complete.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Size, Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerBase

from llava_sea.constants import IMAGE_TOKEN
from llava_sea.conversation import Template
from llava_sea.data.images import ImageTransform
from llava_sea.data.tokenize import padding_id
from llava_sea.errors import UserError
from llava_sea.model.builder import without_zero3
from llava_sea.model.chat_template import choose_chat_template
from llava_sea.model.load_names import some
from llava_sea.model.write_config import write_config, write_generation_config, written_config
from llava_sea.model.write_files import replaced_together
from llava_sea.model.write_processor import with_image_token, write_processor, write_tokenizer
from llava_sea.model.write_weights import EMBEDDING, HEAD, write_weights

logger = logging.getLogger(__name__)

ROWS_MULTIPLE = 64
"""The vocabulary's tables grow to a multiple of this, as those of llava-hf: faster on GPUs."""


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
    """Write a model with everything that belongs to it.

    Args:
        folder: where to; other files in it are left alone.
        model: a stock Llava, as training has it. Only its configuration is read if `state_dict` is
            given.
        tokenizer: of the training.
        transform: of the training; decides whether users' pictures are padded or cropped.
        template: of the training; becomes the chat template.
        state_dict: the weights under the model's own names, for an engine that keeps them apart
            (ZeRO-3); call this on one rank then.
        extra_config: further keys of config.json.
        dtype: of the weights; None takes the embedding's.
        max_shard_size: of one file of weights.

    Returns:
        The names of the files written.

    Raises:
        UserError: if the model has weights that the format cannot hold.
        OSError: if a file cannot be written.
    """
    folder = Path(folder)
    state = dict(model.state_dict() if state_dict is None else state_dict)
    written_tokenizer = with_image_token(tokenizer)
    image_token_id: Any = written_tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    rows = len(state[EMBEDDING])
    if image_token_id >= rows:
        rows = -(-(image_token_id + 1) // ROWS_MULTIPLE) * ROWS_MULTIPLE
    config = written_config(model.config, image_token_id=image_token_id, rows=rows)
    text_config, vision_config = _parts(config)
    if config.tie_word_embeddings:
        state.pop(HEAD, None)
    _check_state(state, config, rows)
    config.pad_token_id = padding_id(tokenizer, rows)
    dtype = dtype or state[EMBEDDING].dtype
    if text_config.model_type.startswith("gemma"):
        logger.warning(
            "a Gemma: readers that scale all that enters the LLM (transformers 4) scale pictures "
            "too and get them wrong; open this checkpoint with transformers 5 or later"
        )
    chat = choose_chat_template(template, tokenizer, written_tokenizer)
    if chat.difference:
        logger.warning(
            "the chat template cannot equal --version %s token for token with this tokenizer: %s",
            template.name,
            chat.difference,
        )
    extra = {
        "image_aspect_ratio": transform.aspect_ratio,
        "tokenizer_model_max_length": int(tokenizer.model_max_length),
        "conversation_template": template.name,
        "mm_vision_tower": vision_config.name_or_path or None,
        **(extra_config or {}),
    }
    with replaced_together(folder) as staging:
        write_weights(
            staging,
            state,
            rows=rows,
            tower_type=vision_config.model_type,
            dtype=dtype,
            max_shard_size=max_shard_size,
        )
        write_tokenizer(staging, written_tokenizer, chat.jinja)
        write_processor(staging, transform, config)
        write_generation_config(
            staging, model.generation_config, template, tokenizer, config.pad_token_id
        )
        write_config(staging / "config.json", config, dtype, extra)
        names = sorted(path.name for path in staging.iterdir())
    return names


def _parts(config: LlavaConfig) -> tuple[Any, Any]:
    return config.text_config, config.vision_config


def _check_state(state: Mapping[str, Tensor], config: LlavaConfig, rows: int) -> None:
    """Compare the weights with the model that readers will build from the configuration."""
    with torch.device("meta"), without_zero3():
        shell = LlavaForConditionalGeneration(config)
    expected = {name: tensor.shape for name, tensor in shell.state_dict().items()}
    if config.tie_word_embeddings:
        del expected[HEAD]
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    if missing or unknown:
        raise UserError(
            "these weights are no stock Llava's and cannot be written as one: missing "
            f"{some(missing) or 'none'}; not known {some(unknown) or 'none'}"
        )
    wrong = [
        f"{name} {tuple(tensor.shape)}, expected {tuple(expected[name])}"
        for name, tensor in state.items()
        if (Size((rows, *tensor.shape[1:])) if name in (EMBEDDING, HEAD) else tensor.shape)
        != expected[name]
    ]
    if wrong:
        raise UserError(f"weights do not fit the model's configuration: {some(wrong, '; ')}")
