"""Answers: pictures placed by mask as in training, then transformers' own generation.

Prompts of different lengths are padded on the left. Decoding is greedy or by temperature alone; a
checkpoint's own generation settings (Vicuna's top-p) do not enter, so the same call gives the same
answer whatever the folder says. Limit: one beam.

Shape letters: B prompts, L tokens, N new tokens, I pictures, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LlavaForConditionalGeneration

from llava_sea.data.tokenize import PLACEHOLDER_ID
from llava_sea.errors import UserError
from llava_sea.model.wrapped import WrappedLlava


@torch.inference_mode()
def generate(
    model: LlavaForConditionalGeneration,
    input_ids: Sequence[Sequence[int]],
    image_mask: Sequence[Sequence[bool]],
    pixel_values: Tensor | None,
    *,
    max_new_tokens: int,
    temperature: float,
    stop_ids: Sequence[int],
    streamer: Any = None,
) -> Tensor:
    """Continue prompts.

    Args:
        model: the stock Llava.
        input_ids: B prompts, each a list of ids; any valid id where a patch goes.
        image_mask: the same shape, true where a patch goes, in picture order.
        pixel_values: ``(I, 3, H, W)``, all prompts' pictures one after the other; None without.
        max_new_tokens: at most so many; fewer where the LLM's context ends.
        temperature: 0 takes the most likely token each time.
        stop_ids: tokens that end an answer.
        streamer: transformers' text streamer, for one prompt.

    Returns:
        New ids ``(B, N)`` with the stop token; after it comes more of `stop_ids`.

    Raises:
        UserError: if `temperature` or `max_new_tokens` is out of range, or a prompt fills the
            LLM's context.
    """
    if temperature < 0:
        raise UserError(f"--temperature {temperature}: must be 0 (greedy) or above")
    if max_new_tokens < 1:
        raise UserError(f"--max-new-tokens {max_new_tokens}: must be at least 1")
    embeds_BLD, attention_BL = embed_prompts(model, input_ids, image_mask, pixel_values)
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
    config = GenerationConfig(
        max_new_tokens=min(max_new_tokens, room_left(model, embeds_BLD.shape[1])),
        num_beams=1,
        repetition_penalty=1.0,
        eos_token_id=list(stop_ids),
        pad_token_id=stop_ids[0],
        **sampling,
    )
    generator: Any = model
    kept, generator.generation_config = generator.generation_config, GenerationConfig()
    try:
        new_BN: Tensor = generator.generate(
            inputs_embeds=embeds_BLD,
            attention_mask=attention_BL,
            generation_config=config,
            streamer=streamer,
        )
    finally:
        generator.generation_config = kept
    return new_BN


def embed_prompts(
    model: LlavaForConditionalGeneration,
    input_ids: Sequence[Sequence[int]],
    image_mask: Sequence[Sequence[bool]],
    pixel_values: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Look up B prompts, padded on the left, and put the projected patches in their places.

    Returns:
        Embeddings ``(B, L, D)`` and the attention mask ``(B, L)``.
    """
    wrapped, embedding = WrappedLlava(model), model.get_input_embeddings()
    assert isinstance(embedding.weight, Tensor)
    device = embedding.weight.device
    length = max(len(ids) for ids in input_ids)
    ids_BL = torch.full((len(input_ids), length), PLACEHOLDER_ID)
    mask_BL = torch.zeros(ids_BL.shape, dtype=torch.bool)
    attention_BL = torch.zeros(ids_BL.shape, dtype=torch.long)
    for row, (ids, mask) in enumerate(zip(input_ids, image_mask, strict=True)):
        start = length - len(ids)
        ids_BL[row, start:] = torch.tensor(ids)
        mask_BL[row, start:] = torch.tensor(mask)
        attention_BL[row, start:] = 1
    embeds_BLD = wrapped.embed(ids_BL.to(device))
    if pixel_values is not None:
        visual_IPD = wrapped.project(pixel_values.to(device)).to(embeds_BLD.dtype)
        assert int(mask_BL.sum()) == visual_IPD.shape[0] * visual_IPD.shape[1]
        embeds_BLD = embeds_BLD.masked_scatter(mask_BL.to(device)[..., None], visual_IPD)
    return embeds_BLD, attention_BL.to(device)


def room_left(model: LlavaForConditionalGeneration, length: int) -> int:
    """Return how many tokens the LLM's context has left after a prompt of `length`.

    Raises:
        UserError: if there are none.
    """
    text_config: Any = model.config.text_config
    context = int(text_config.max_position_embeddings)
    if length >= context:
        raise UserError(
            f"the conversation is {length} tokens long with its picture, the LLM reads {context}; "
            "start a new one, or ask something shorter"
        )
    return context - length
