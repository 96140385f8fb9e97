"""Stage 2, instruction tuning: the LLM and the projector are trained, the vision tower on request.

No alignment loss (the paper, 3.3). SEA-PRIME also trains the vision tower; of it only what feeds
the projector, since the layers after the selected hidden state get no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import LlavaForConditionalGeneration

from llava_sea.model.packed import packed_rows
from llava_sea.model.towers import unused_tower_parts
from llava_sea.model.wrapped import StepLosses, WrappedLlava


class Stage2Model(WrappedLlava):
    """Trains what its caller has left trainable; see `choose_trainable` and `llava_sea.model.lora`.

    The batch is stage 1's, without the pairs, or packed (`llava_sea.data.packing`).
    """

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        image_mask: Tensor,
        pixel_values: Tensor,
        position_ids: Tensor | None = None,
        sample_lengths: Sequence[int] | None = None,
        **_: Any,
    ) -> StepLosses:
        """Compute the next-token loss of a micro-batch.

        A packed row comes with `position_ids` ``(1, L)``, from 0 at each sample, and the lengths of
        its samples.
        """
        visual_IPD = self.project(pixel_values)
        rows: dict[str, Any] = {"attention_mask": attention_mask}
        if position_ids is not None and sample_lengths is not None:
            rows = packed_rows(self.language_model, position_ids, sample_lengths)
        loss, tokens = self.language_loss(visual_IPD, input_ids, labels, image_mask, **rows)
        return StepLosses(loss, tokens)


def choose_trainable(
    llava: LlavaForConditionalGeneration,
    *,
    language_model: bool = True,
    projector: bool = True,
    vision_tower: bool = False,
) -> None:
    """Set what stage 2 trains.

    The LLM with its embeddings and its head; the tower up to the hidden state that feeds the
    projector.
    """
    llava.requires_grad_(False)
    llava.model.language_model.requires_grad_(language_model)
    llava.lm_head.requires_grad_(language_model)
    llava.model.multi_modal_projector.requires_grad_(projector)
    if vision_tower:
        llava.model.vision_tower.requires_grad_(True)
        for module in unused_tower_parts(llava):
            module.requires_grad_(False)
