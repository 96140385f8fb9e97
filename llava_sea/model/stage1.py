"""Stage 1: the stock Llava with the alignment head beside it, returning the two losses apart.

One forward pass places the projected patches (one masked scatter), runs the LLM, and reads the same
projected patches for SEA. Losses are sums and counts or a mean with its count; how they are put
together over accumulation and ranks is the trainer's. Every rank makes the same module calls for
every batch, whatever it holds: ZeRO-3 hangs otherwise.

Shape letters: B records, L tokens, I pictures, P patches, D hidden size, N pairs, M pairs of all
ranks, K supervised tokens, T tokens of a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlavaForConditionalGeneration

from llava_sea.alignment import AlignmentHead, keep_one_per_label, word_targets
from llava_sea.alignment.loss import LOG_SCALE_MAX
from llava_sea.constants import IGNORE_INDEX
from llava_sea.model.projector_io import gathered


class Stage1Output(NamedTuple):
    """The losses of one micro-batch on one rank, not yet normalised over ranks."""

    lm_loss_sum: Tensor
    """Next-token loss (eq. 12) summed over this rank's supervised tokens."""
    num_tokens: Tensor
    """How many they are."""
    sea_loss: Tensor | None
    """Alignment loss (eq. 11): this rank's mean, or with global negatives its share of the sum."""
    num_pairs: Tensor | None
    """Valid pairs N behind it: this rank's, or with global negatives all ranks'."""
    visual_IPD: Tensor
    """The projected visual tokens X_v, detached."""


class Stage1Model(nn.Module):
    """Trains the projector and, with a head, the temperature; all else is frozen."""

    accepts_loss_kwargs = True  # tells HF Trainer that we normalise by the global token count
    supports_gradient_checkpointing = True

    def __init__(
        self,
        llava: LlavaForConditionalGeneration,
        head: AlignmentHead | None = None,
        negatives: str = "local",
    ) -> None:
        """Wrap a Llava and freeze it, except for its projector.

        Args:
            llava: the model; its parameters' `requires_grad` is set here.
            head: the alignment head; None trains plain LLaVA.
            negatives: `local` or `global`, whose visual tokens are a word's negatives.
        """
        super().__init__()
        self.llava = llava
        self.head = head
        self.negatives = negatives
        self.config = llava.config
        llava.requires_grad_(False)
        self.projector.requires_grad_(True)

    @property
    def projector(self) -> nn.Module:
        """The adapter g_theta."""
        projector: nn.Module = self.llava.model.multi_modal_projector
        return projector

    def trainable_to_float32(self) -> None:
        """Keep what is trained in float32: without DeepSpeed there is no float32 copy of it.

        AdamW's steps of 1e-3 vanish in bfloat16, whose numbers near 1 are 0.008 apart.
        """
        self.projector.float()
        if self.head is not None:
            self.head.float()

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: Any = None, **options: Any
    ) -> None:
        """Recompute the LLM's layers in the backward pass (the tower keeps none anyway)."""
        llm = self.llava.model.language_model
        enable = getattr(llm, "activation_checkpointing_enable", None)
        if enable is not None:
            enable(activation_checkpointing_kwargs=activation_checkpointing_kwargs, **options)
        else:
            llm.gradient_checkpointing_enable(activation_checkpointing_kwargs)

    def project(self, pixel_values: Tensor) -> Tensor:
        """Turn pictures ``(I, 3, H, W)`` into visual tokens X_v ``(I, P, D)`` (eq. 1)."""
        dtype = next(self.llava.model.vision_tower.parameters()).dtype
        output = self.llava.get_image_features(pixel_values.to(dtype))
        return torch.stack(list(output.pooler_output))

    def embed(self, token_ids: Tensor) -> Tensor:
        """Look up the LLM's input embeddings Psi (eq. 2)."""
        embedded: Tensor = self.llava.get_input_embeddings()(token_ids)
        return embedded

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        image_mask: Tensor,
        pixel_values: Tensor,
        sea_patch: Tensor | None = None,
        sea_label: Tensor | None = None,
        sea_key: Tensor | None = None,
        sea_words: Tensor | None = None,
        sea_valid: Tensor | None = None,
        **_: Any,
    ) -> Stage1Output:
        """Compute both losses of a micro-batch; see the collator for what the tensors hold.

        Args:
            input_ids: ``(B, L)``; any valid id where a patch goes.
            attention_mask: ``(B, L)``.
            labels: ``(B, L)``, -100 where not supervised.
            image_mask: bool ``(B, L)``, true where a patch goes, in picture order.
            pixel_values: ``(I, 3, H, W)``.
            sea_patch: for each pair its visual token, counted over all pictures ``(N,)``.
            sea_label: label ids ``(N,)``.
            sea_key: random keys ``(N,)``.
            sea_words: the label's token ids, padded with -1 ``(N, T)``.
            sea_valid: bool ``(N,)``.
        """
        visual_IPD = self.project(pixel_values)
        embeds_BLD = self.embed(input_ids)
        embeds_BLD = embeds_BLD.masked_scatter(
            image_mask[..., None], visual_IPD.to(embeds_BLD.dtype)
        )
        hidden_BLD = self.llava.model.language_model(
            inputs_embeds=embeds_BLD, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state
        # Logits only where there is a label: at 600 tokens a record about 30 are supervised.
        supervised_BL = labels[:, 1:] != IGNORE_INDEX
        logits_KV = self.llava.lm_head(hidden_BLD[:, :-1][supervised_BL]).float()
        lm_loss_sum = cross_entropy(logits_KV, labels[:, 1:][supervised_BL], reduction="sum")
        # A batch without pictures still sends (zero) gradients through the projector.
        lm_loss_sum = lm_loss_sum + 0.0 * visual_IPD.sum().float()
        num_tokens = supervised_BL.sum()
        if self.head is None or sea_patch is None:
            return Stage1Output(lm_loss_sum, num_tokens, None, None, visual_IPD.detach())
        assert sea_label is not None and sea_key is not None
        assert sea_words is not None and sea_valid is not None
        group = None
        if self.negatives == "global" and dist.is_initialized():
            group = dist.group.WORLD
            sea_words, sea_label, sea_key, sea_valid = _gather(
                sea_words, sea_label, sea_key, sea_valid
            )
            sea_valid = keep_one_per_label(sea_label, sea_key, sea_valid)
        text_MD = word_targets(self.embed(sea_words.clamp(min=0)), sea_words >= 0)
        visual_ND = visual_IPD.flatten(0, 1)[sea_patch]
        sea_loss = self.head(visual_ND, text_MD, sea_valid, group)
        return Stage1Output(lm_loss_sum, num_tokens, sea_loss, sea_valid.sum(), visual_IPD.detach())

    def head_state(self) -> dict[str, Tensor]:
        """Return the head's tensors on the CPU, none without one. Collective in ZeRO-3."""
        if self.head is None:
            return {}
        with gathered(self.head):
            state = {n: p.detach().cpu().clone() for n, p in self.head.named_parameters()}
            return state | {"log_scale": self.head.log_scale.detach().cpu().reshape(1)}

    def load_head_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `head_state` returned."""
        assert self.head is not None
        self.head.load_state_dict({n: t for n, t in state.items() if n != "log_scale"})

    def temperature(self) -> float:
        """Return tau = exp(-log_scale) as the loss uses it. Collective in ZeRO-3."""
        return float((-self.head_state()["log_scale"].clamp(max=LOG_SCALE_MAX)).exp()[0])

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


def _gather(*tensors: Tensor) -> list[Tensor]:
    """Gather small integer tensors of equal shape from all ranks, in rank order, in one call.

    At 4,608 pairs with 4 tokens a word this sends 0.3 MB a rank; embeddings are never sent.
    """
    packed = torch.cat([t.reshape(len(t), -1).long() for t in tensors], dim=1)
    parts = [torch.empty_like(packed) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, packed)
    columns = [t[0].numel() for t in tensors]
    gathered = torch.cat(parts).split(columns, dim=1)
    return [g.reshape(-1, *t.shape[1:]).to(t.dtype) for g, t in zip(gathered, tensors, strict=True)]
