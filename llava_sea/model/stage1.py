"""Stage 1: the projector alone is trained, with the alignment head beside the stock Llava.

SEA reads the same projected patches that the LLM gets. The two losses come back apart.

Shape letters: B records, L tokens, I images, P patches, M or N those of all images, D hidden size,
U distinct words, Q words, T tokens of a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from llava_sea.alignment import (
    AlignmentHead,
    NearestWords,
    PatchWords,
    nearest_words,
    word_targets,
)
from llava_sea.alignment.loss import LOG_SCALE_MAX, length_loss
from llava_sea.model.projector_io import gathered, whole_tensors
from llava_sea.model.towers import first_patch
from llava_sea.model.wrapped import StepLosses, WrappedLlava

WORD_BLOCK = 2048


class Stage1Model(WrappedLlava):
    """Trains the projector and, with a head, the temperature; all else is frozen."""

    def __init__(
        self,
        llava: LlavaForConditionalGeneration,
        head: AlignmentHead | None = None,
        negatives: str = "local",
        *,
        align_only: bool = False,
        length_weight: float = 0.0,
    ) -> None:
        """Wrap a Llava and freeze it, except for its projector; without a head it is plain LLaVA.

        `negatives` says whose visual tokens are a word's negatives, ``local`` or ``global``. With
        `align_only` the alignment loss alone is computed; of the LLM only the embeddings are used.
        `length_weight` is that of `length_loss` within the alignment loss.
        """
        super().__init__(llava)
        self.head = head
        self.negatives = negatives
        self.align_only = align_only
        self.length_weight = length_weight
        llava.requires_grad_(False)
        self.projector.requires_grad_(True)

    def parts(self) -> dict[str, list[nn.Module]]:
        """Return the parts by name, for the table of what is trained."""
        return super().parts() | {"alignment head": [self.head] if self.head is not None else []}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        image_mask: Tensor,
        pixel_values: Tensor,
        sea: Mapping[str, Tensor] | None = None,
        **_: Any,
    ) -> StepLosses:
        """Compute both losses of a micro-batch; `sea` has the fields of `PatchWords`."""
        visual_IPD = self.project(pixel_values)
        patches_IPD = visual_IPD[:, first_patch(self.config) :]
        lm_loss_sum = num_tokens = visual_IPD.new_zeros(())
        if not self.align_only:
            lm_loss_sum, num_tokens = self.language_loss(
                visual_IPD, input_ids, labels, image_mask, attention_mask=attention_mask
            )
        sea_loss, num_pairs = None, None
        if self.head is not None and sea is not None:
            sea_loss, num_pairs = self.align(patches_IPD, PatchWords(**sea))
        return StepLosses(lm_loss_sum, num_tokens, sea_loss, num_pairs, patches_IPD.detach())

    def align(self, visual_IPD: Tensor, words: PatchWords) -> tuple[Tensor, Tensor]:
        """Return L_a (eq. 11) and its number of pairs; of the LLM only its embeddings are used."""
        assert self.head is not None and words.patch_N is not None
        group = dist.group.WORLD if self.negatives == "global" and dist.is_initialized() else None
        words = words.over_ranks(group)
        assert words.words_UT is not None
        tokens_UTD, mask_UT = self.embed(words.words_UT.clamp(min=0)), words.words_UT >= 0
        visual_MD = visual_IPD.flatten(0, 1)
        text_UD = word_targets(tokens_UTD, mask_UT)
        loss: Tensor = self.head(visual_MD[words.patch_N], text_UD, None, group, words)
        if self.length_weight:
            share = self.length_weight / (1 if group is None else dist.get_world_size(group))
            loss = loss + share * length_loss(visual_MD, tokens_UTD, mask_UT)
        return loss, words.num_pairs(group)

    def word_blocks(self, ids_QT: Tensor, device: torch.device) -> Iterator[Tensor]:
        """Embed words (eq. 10), in blocks: a list of millions costs memory for one of them.

        Under ZeRO-3 all ranks look up embeddings at the same time, or wait for ever.
        """
        for block_QT in ids_QT.split(WORD_BLOCK):
            block_QT = block_QT.to(device)
            yield word_targets(self.embed(block_QT.clamp(min=0)), block_QT >= 0)

    def near_words(
        self, visual_IPD: Tensor, ids_QT: Tensor
    ) -> tuple[NearestWords, dict[str, Tensor]]:
        """Return the patches' nearest words, and each image's means over its patches ``(I,)``.

        These are the modality gap (eq. 5), that of unit vectors, and the visual tokens' length.
        """
        visual_ND = visual_IPD.flatten(0, 1)
        found = nearest_words(visual_ND, self.word_blocks(ids_QT, visual_IPD.device))
        parts = {
            "gap": found.distance_N,
            "gap_unit": found.unit_distance_N,
            "visual_length": visual_ND.float().norm(dim=-1),
        }
        return found, {name: x_N.view(len(visual_IPD), -1).mean(1) for name, x_N in parts.items()}

    @torch.no_grad()
    def embedding_length(self, ids_QT: Tensor, device: torch.device) -> float:
        """Return the mean length of the embedding rows of the words' tokens, each token once."""
        ids = ids_QT[ids_QT >= 0].unique()
        blocks = (self.embed(block.to(device)) for block in ids.split(WORD_BLOCK))
        total = sum(float(rows.float().norm(dim=-1).sum()) for rows in blocks)
        return total / max(1, len(ids))

    def head_state(self) -> dict[str, Tensor]:
        """Return the head's tensors on the CPU, none without one. Collective in ZeRO-3."""
        if self.head is None:
            return {}
        with gathered(*self.head.parameters()):
            log_scale = self.head.log_scale.detach().cpu().reshape(1)
        return whole_tensors(self.head.named_parameters()) | {"log_scale": log_scale}

    def load_head_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `head_state` returned."""
        assert self.head is not None
        self.head.load_state_dict({n: t for n, t in state.items() if n != "log_scale"})

    def temperature(self) -> float:
        """Return tau = exp(-log_scale) as the loss uses it. Collective in ZeRO-3."""
        return float((-self.head_state()["log_scale"].clamp(max=LOG_SCALE_MAX)).exp()[0])
