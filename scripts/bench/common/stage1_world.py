"""A stage-1 step to measure: random weights from configs, batches of the collator's shapes.

Shared by the benches of stage 1; not a bench of its own. On the CPU a Llama of a few
million parameters and a small CLIP; on CUDA CLIP-L/336 and a 7B Llama in bfloat16, built there.

Shape letters: B records, L tokens, P patches, N pairs.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from llava_sea.alignment import AlignmentHead
from llava_sea.data.collator import Collator
from llava_sea.data.words import WordTokens
from llava_sea.model.stage1 import Stage1Model
from llava_sea.presets import TRAINING_PRESETS

NUM_WORDS, WORD_TOKENS, CAPTION_TOKENS = 20_000, 3, 32


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of a model."""

    hidden: int
    inner: int
    layers: int
    heads: int
    vocab: int
    tower_hidden: int
    tower_inner: int
    tower_layers: int
    tower_heads: int
    image: int
    patch: int

    @property
    def patches(self) -> int:
        """P, of an image."""
        return (self.image // self.patch) ** 2


SMALL = Shape(256, 688, 4, 4, 8_000, 128, 512, 4, 4, 112, 14)
REAL = Shape(4096, 11_008, 32, 32, 32_000, 1024, 4096, 24, 16, 336, 14)


def build(shape: Shape, device: str, attention: str = "sdpa") -> Any:
    """Return a Llava with random weights: bfloat16 on CUDA, float32 on the CPU."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    vision = CLIPVisionConfig(
        hidden_size=shape.tower_hidden,
        intermediate_size=shape.tower_inner,
        num_hidden_layers=shape.tower_layers,
        num_attention_heads=shape.tower_heads,
        image_size=shape.image,
        patch_size=shape.patch,
    )
    text = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=2048,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=shape.vocab,
        image_seq_length=shape.patches,
        projector_hidden_act="gelu",
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    try:
        with torch.device(device):
            llava = LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    llava.set_attn_implementation(attention)
    return llava


def wrap(llava: Any, preset: str | None) -> Stage1Model:
    """Wrap a Llava for stage 1, without SEA or as a preset trains it."""
    head = None
    if preset is not None:
        head = AlignmentHead(float(TRAINING_PRESETS[preset]["sea_log_scale_init"]))
        head = head.to(next(llava.parameters()).device)
    model = Stage1Model(llava, head)
    model.trainable_to_float32()
    return model.train()


def make_batch(shape: Shape, records: int, device: str, *, labels: bool) -> dict[str, Tensor]:
    """Return a batch as the collator makes it, one image and one caption a record."""
    rng, side = np.random.default_rng(0), shape.image // shape.patch
    windows = (side // 2) ** 2
    samples = []
    for _ in range(records):
        caption = torch.from_numpy(rng.integers(3, shape.vocab, CAPTION_TOKENS))
        image = torch.zeros(shape.patches + 1, dtype=torch.int64)
        ids = torch.cat([image, caption])
        sample = {
            "input_ids": ids,
            "labels": torch.cat([torch.full_like(image, -100), caption]),
            "image_mask": torch.arange(len(ids)).sub(1).ge(0)
            & torch.arange(len(ids)).le(shape.patches),
            "pixel_values": torch.randn(1, 3, shape.image, shape.image),
        }
        if labels:
            first = torch.arange(0, side, 2)
            sample["sea_patch"] = (first[:, None] * side + first).reshape(-1)
            # Word frequencies have a long tail: a few words label many patches.
            drawn = (NUM_WORDS ** rng.random(windows)).astype(np.int64) - 1
            sample["sea_label"] = torch.from_numpy(drawn)
            sample["sea_key"] = torch.from_numpy(rng.integers(0, 2**62, windows))
        samples.append(sample)
    words = None
    if labels:
        ids_QM = rng.integers(3, shape.vocab, (NUM_WORDS, WORD_TOKENS)).astype(np.int32)
        words = WordTokens(ids_QM, np.zeros(NUM_WORDS, bool))
    collator = Collator(0, (shape.image, shape.image), shape.patches, windows * records, words)
    batch: dict[str, Any] = send_to_device(collator(samples), device)
    return batch


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW over what is trained, as both loops use it."""
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)


def step(model: Stage1Model, batch: dict[str, Tensor], adam: torch.optim.Optimizer) -> float:
    """Take one optimizer step on L_g + L_a."""
    with torch.autocast("cuda", torch.bfloat16, enabled=batch["input_ids"].is_cuda):
        out = model(**batch)
    loss = out.lm_loss_sum / out.num_tokens
    if out.sea_loss is not None:
        loss = loss + out.sea_loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    adam.step()
    adam.zero_grad()
    return float(loss.detach())


def plain_step(llava: Any, batch: dict[str, Tensor], adam: torch.optim.Optimizer) -> float:
    """Take the step as a first loop does it: logits everywhere, no wrapper, no extras."""
    with torch.autocast("cuda", torch.bfloat16, enabled=batch["input_ids"].is_cuda):
        features = llava.get_image_features(batch["pixel_values"]).pooler_output
        embeds = llava.get_input_embeddings()(batch["input_ids"])
        visual = torch.cat(list(features)).to(embeds.dtype)
        embeds = embeds.masked_scatter(batch["image_mask"][..., None], visual)
        hidden = llava.model.language_model(
            inputs_embeds=embeds, attention_mask=batch["attention_mask"], use_cache=False
        ).last_hidden_state
        logits = llava.lm_head(hidden).float()
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
    )
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in llava.parameters() if p.requires_grad], 1.0)
    adam.step()
    adam.zero_grad()
    return float(loss.detach())
