"""Answers from a Llava whose pictures are placed by a mask, as in training.

Shape letters: B prompts, L tokens, I pictures, P patches, D hidden size, T new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from llava_sea.model.wrapped import WrappedLlava


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
        model: the model, in the dtype and on the device it answers with.
        input_ids: prompts ``(B, L)``, padded on the left; any valid id where a patch goes.
        image_mask: bool ``(B, L)``, true where a patch goes, in picture order.
        pixel_values: ``(I, 3, H, W)``; None without pictures.
        attention_mask: ``(B, L)``, 0 for padding; None where there is none.
        max_new_tokens: T at most.
        temperature: 0 is greedy.
        top_p: nucleus sampling, with a temperature.
        num_beams: beam search.
        stop_ids: tokens that end an answer.
        streamer: transformers' streamer, for one prompt.

    Returns:
        The new tokens ``(B, T)``, the ending one included, padded with the first of `stop_ids`.
    """
    wrapped, device = WrappedLlava(model), model.device
    embeds_BLD = wrapped.embed(input_ids.to(device))
    if pixel_values is not None:
        visual_IPD = wrapped.project(pixel_values.to(device))
        embeds_BLD = embeds_BLD.masked_scatter(
            image_mask.to(device)[..., None], visual_IPD.to(embeds_BLD.dtype)
        )
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p or 1.0, "top_k": 0}
    neutral = {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50}
    generator: Any = model
    output: Tensor = generator.generate(
        inputs_embeds=embeds_BLD,
        attention_mask=attention_mask.to(device),
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        eos_token_id=list(stop_ids),
        pad_token_id=stop_ids[0],
        streamer=streamer,
        **(sampling if temperature > 0 else neutral),
    )
    return output
