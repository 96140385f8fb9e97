"""A stock Llava as training calls it: images placed by mask, the next-token loss as a sum.

The model itself stays transformers' class; this stands around it. One forward pass places the
projected patches (one masked scatter), runs the LLM and takes logits only where there is a label.
Losses are sums and counts; how they are put together over accumulation and ranks is the trainer's.
Every rank makes the same module calls for every batch, whatever it holds: ZeRO-3 hangs otherwise.

A batch: `input_ids` ``(B, L)``, any valid id where a patch goes; `attention_mask` ``(B, L)``;
`labels` ``(B, L)``, -100 where not supervised; `image_mask` ``(B, L)``, true where a patch goes, in
image order; `pixel_values` ``(I, 3, H, W)``, a zero image where the batch has none.

Shape letters: B records, L tokens, I images, P patches, D hidden size, V vocabulary, K supervised
tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlavaForConditionalGeneration

from llava_sea.constants import IGNORE_INDEX
from llava_sea.model.towers import surplus_tokens


class StepLosses(NamedTuple):
    """The losses of one micro-batch on one rank, not yet normalised over ranks."""

    lm_loss_sum: Tensor
    """Next-token loss (eq. 12) summed over this rank's supervised tokens; 0 without the LLM."""
    num_tokens: Tensor
    """How many they are."""
    sea_loss: Tensor | None = None
    """Alignment loss (eq. 11): this rank's mean, or with global negatives its share of the sum."""
    num_pairs: Tensor | None = None
    """Valid pairs N behind it: this rank's, or with global negatives all ranks'."""
    visual_IPD: Tensor | None = None
    """The projected patches among the visual tokens X_v, detached."""


class WrappedLlava(nn.Module):
    """What both stages share; which parameters are trained is theirs."""

    accepts_loss_kwargs = True  # tells HF Trainer that we normalise by the global token count
    supports_gradient_checkpointing = True

    def __init__(self, llava: LlavaForConditionalGeneration) -> None:
        super().__init__()
        self.llava = llava
        self.config = llava.config
        self.fused_loss: Callable[[Tensor, Tensor], Tensor] | None = None
        """Head and cross-entropy in one, where `llava_sea.train.liger` has put it."""

    @property
    def projector(self) -> nn.Module:
        """The adapter g_theta."""
        return self.llava.model.multi_modal_projector

    @property
    def vision_tower(self) -> nn.Module:
        """The vision encoder f."""
        return self.llava.model.vision_tower

    @property
    def language_model(self) -> nn.Module:
        """The LLM without its head."""
        return self.llava.model.language_model

    @property
    def num_rows(self) -> int:
        """Rows of the LLM's embedding table."""
        text_config: Any = self.config.text_config
        return int(text_config.vocab_size)

    def parts(self) -> dict[str, list[nn.Module]]:
        """Return the parts by name, for the table of what is trained."""
        return {
            "vision tower": [self.vision_tower],
            "projector": [self.projector],
            "language model": [self.language_model, self.llava.lm_head],
        }

    def trainable_to_float32(self) -> None:
        """Keep trainable parameters in float32, of which only DeepSpeed has a copy of its own.

        Adam's steps vanish in bfloat16, whose numbers near 1 are 0.008 apart.
        """
        for parameter in self.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: Any = None, **options: Any
    ) -> None:
        """Recompute layers in the backward pass: the LLM's, and the tower's where it is trained."""
        parts: list[Any] = [self.language_model]
        if any(p.requires_grad for p in self.vision_tower.parameters()):
            parts.append(self.vision_tower)
        for part in parts:
            enable = getattr(part, "activation_checkpointing_enable", None)
            if enable is not None:
                enable(activation_checkpointing_kwargs=activation_checkpointing_kwargs, **options)
            else:
                part.gradient_checkpointing_enable(activation_checkpointing_kwargs)

    def project(self, pixel_values: Tensor) -> Tensor:
        """Turn images ``(I, 3, H, W)`` into visual tokens X_v ``(I, P, D)`` (eq. 1)."""
        dtype = next(self.vision_tower.parameters()).dtype
        output = self.llava.get_image_features(pixel_values.to(dtype))
        return torch.stack(list(output.pooler_output))[:, surplus_tokens(self.config) :]

    def embed(self, token_ids: Tensor) -> Tensor:
        """Look up the LLM's input embeddings Psi (eq. 2)."""
        return self.llava.get_input_embeddings()(token_ids)

    def place(self, visual_IPD: Tensor, input_ids: Tensor, image_mask: Tensor) -> Tensor:
        """Embed tokens ``(B, L)`` and put the visual tokens in the images' places, in order."""
        embeds_BLD = self.embed(input_ids)
        return embeds_BLD.masked_scatter(image_mask[..., None], visual_IPD.to(embeds_BLD.dtype))

    def hidden_states(
        self, visual_IPD: Tensor, input_ids: Tensor, image_mask: Tensor, **keywords: Any
    ) -> Tensor:
        """Return the LLM's last hidden states ``(B, L, D)``, the visual tokens in their places.

        Keywords are the LLM's: an attention mask, or those of `packed_rows`.
        """
        embeds_BLD = self.place(visual_IPD, input_ids, image_mask)
        return self.language_model(
            inputs_embeds=embeds_BLD, use_cache=False, **keywords
        ).last_hidden_state

    def language_loss(
        self,
        visual_IPD: Tensor,
        input_ids: Tensor,
        labels: Tensor,
        image_mask: Tensor,
        **keywords: Any,
    ) -> tuple[Tensor, Tensor]:
        """Return the next-token loss (eq. 12) summed over supervised tokens, and their number."""
        hidden_BLD = self.hidden_states(visual_IPD, input_ids, image_mask, **keywords)
        # Logits only where there is a label: at 600 tokens a record about 30 are supervised.
        supervised_BL = labels[:, 1:] != IGNORE_INDEX
        lm_loss_sum = self.token_loss(
            hidden_BLD[:, :-1][supervised_BL], labels[:, 1:][supervised_BL]
        )
        # A batch without images still sends (zero) gradients through the projector.
        return lm_loss_sum + 0.0 * visual_IPD.sum().float(), supervised_BL.sum()

    def token_loss(self, hidden_KD: Tensor, target_K: Tensor) -> Tensor:
        """Return the cross-entropy of the head's logits, summed, in float32."""
        if self.fused_loss is not None and len(target_K):
            return self.fused_loss(hidden_KD, target_K)
        logits_KV = self.llava.lm_head(hidden_KD).float()
        return cross_entropy(logits_KV, target_K, reduction="sum")

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load trainable parameters; frozen ones may be missing, since no checkpoint holds them.

        Raises:
            RuntimeError: if a trainable parameter is missing or a key is not known.
        """
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        frozen = {name for name, p in self.named_parameters() if not p.requires_grad}
        frozen |= {name for name, _ in self.named_buffers()}
        missing = [key for key in result.missing_keys if key not in frozen]
        if strict and (missing or result.unexpected_keys):
            raise RuntimeError(
                f"the checkpoint does not fit: missing {missing}, unknown {result.unexpected_keys}"
            )
        return result
