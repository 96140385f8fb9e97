"""Answers from a Llava whose images are placed by a mask, as in training.

Decoding is by the arguments alone: a checkpoint's own generation settings (Vicuna's top-p) do not
enter, so a call means the same whatever the folder says.

Shape letters: B prompts, L tokens, I images, P patches, D hidden size, T new tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig, LlavaForConditionalGeneration

from llava_sea.data.tokenize import PLACEHOLDER_ID
from llava_sea.errors import UserError
from llava_sea.model.wrapped import WrappedLlava


class Prompts(NamedTuple):
    """Prompts of different lengths in one batch, each ``(B, L)``, padded on the left."""

    input_ids: Tensor
    image_mask: Tensor
    attention_mask: Tensor


def pad_prompts(prompts: Sequence[tuple[Sequence[int], Sequence[bool]]]) -> Prompts:
    """Put the results of `tokenize_prompt` into a batch."""
    length = max(len(ids) for ids, _ in prompts)
    ids_BL = torch.full((len(prompts), length), PLACEHOLDER_ID)
    image_BL = torch.zeros(ids_BL.shape, dtype=torch.bool)
    attention_BL = torch.zeros_like(ids_BL)
    for row, (ids, mask) in enumerate(prompts):
        start = length - len(ids)
        ids_BL[row, start:] = torch.tensor(ids)
        image_BL[row, start:] = torch.tensor(mask)
        attention_BL[row, start:] = 1
    return Prompts(ids_BL, image_BL, attention_BL)


@torch.inference_mode()
def generate(
    model: LlavaForConditionalGeneration,
    input_ids: Tensor,
    image_mask: Tensor,
    pixel_values: Tensor | None,
    *,
    attention_mask: Tensor | None = None,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float | None = None,
    num_beams: int = 1,
    stop_ids: Sequence[int],
    streamer: Any = None,
) -> Tensor:
    """Generate answers.

    Args:
        model: in the dtype and on the device it answers with.
        input_ids: prompts ``(B, L)``, padded on the left; any valid id where a patch goes.
        image_mask: bool ``(B, L)``, true where a patch goes, in image order.
        pixel_values: ``(I, 3, H, W)``; None without images.
        attention_mask: ``(B, L)``, 0 for padding; None where there is none.
        max_new_tokens: T at most; fewer where the LLM's context ends.
        temperature: 0 is greedy.
        top_p: nucleus sampling, with a temperature.
        num_beams: beam search, with more than one.
        stop_ids: tokens that end an answer.
        streamer: transformers', for one prompt.

    Returns:
        The new tokens ``(B, T)``, the ending one included, padded with the first of `stop_ids`.

    Raises:
        UserError: if a prompt fills the LLM's context.
    """
    wrapped, device = WrappedLlava(model), model.device
    new_tokens = min(max_new_tokens, room_left(model, input_ids.shape[1]))
    ids_BL = input_ids.to(device)
    if pixel_values is None:
        embeds_BLD = wrapped.embed(ids_BL)
    else:
        visual_IPD = wrapped.project(pixel_values.to(device))
        # A masked scatter takes what it needs and says nothing about the rest.
        assert int(image_mask.sum()) == visual_IPD.shape[0] * visual_IPD.shape[1]
        embeds_BLD = wrapped.place(visual_IPD, ids_BL, image_mask.to(device))
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p or 1.0}
    config = GenerationConfig(
        max_new_tokens=new_tokens,
        num_beams=num_beams,
        top_k=0 if temperature > 0 else None,
        eos_token_id=list(stop_ids),
        pad_token_id=stop_ids[0],
        **sampling,
    )
    generator: Any = copy.copy(model)  # with its weights
    generator.generation_config = GenerationConfig()  # has what `config` leaves open
    return generator.generate(
        inputs_embeds=embeds_BLD,
        attention_mask=attention_mask.to(device),
        generation_config=config,
        streamer=streamer,
    )


def room_left(model: LlavaForConditionalGeneration, length: int) -> int:
    """Return how many tokens the LLM's context has left after a prompt of `length`."""
    text_config: Any = model.config.text_config
    context = int(text_config.max_position_embeddings)
    if length >= context:
        raise UserError(
            f"the conversation is {length} tokens long with its image, the LLM reads {context}; "
            "start a new one, or ask something shorter"
        )
    return context - length
