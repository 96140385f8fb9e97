"""Stage 1: the projector alone is trained, with the alignment head beside the stock Llava.

SEA reads the same projected patches that the LLM gets. The two losses come back apart.

Shape letters: B records, L tokens, I pictures, P patches, D hidden size, N pairs, M pairs of all
ranks, T tokens of a word, U distinct words, J words of a patch's top n.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from llava_sea.alignment import AlignmentHead, keep_one_per_label, word_targets
from llava_sea.alignment.batch import LabelledBatch, gather_rows
from llava_sea.alignment.loss import LOG_SCALE_MAX
from llava_sea.model.projector_io import gathered
from llava_sea.model.wrapped import StepLosses, WrappedLlava


class Stage1Model(WrappedLlava):
    """Trains the projector and, with a head, the temperature; all else is frozen."""

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
        super().__init__(llava)
        self.head = head
        self.negatives = negatives
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
        sea_patch: Tensor | None = None,
        sea_label: Tensor | None = None,
        sea_key: Tensor | None = None,
        sea_words: Tensor | None = None,
        sea_valid: Tensor | None = None,
        sea_word: Tensor | None = None,
        sea_top_n: Tensor | None = None,
        sea_scores: Tensor | None = None,
        **_: Any,
    ) -> StepLosses:
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
            sea_words: the label's token ids, padded with -1 ``(N, T)``; with `sea_word` ``(U, T)``.
            sea_valid: bool ``(N,)``.
            sea_word: the batch's distinct words, where pairs are not the paper's ``(U,)``.
            sea_top_n: ids of the patches' top n words ``(N, J)``.
            sea_scores: their scores, if they are the targets ``(N, J)``.
        """
        visual_IPD = self.project(pixel_values)
        lm_loss_sum, num_tokens = self.language_loss(
            visual_IPD, input_ids, attention_mask, labels, image_mask
        )
        if self.head is None or sea_patch is None:
            return StepLosses(lm_loss_sum, num_tokens, None, None, visual_IPD.detach())
        assert sea_label is not None and sea_words is not None and sea_valid is not None
        sea_loss, num_pairs = self.align(
            visual_IPD,
            sea_patch,
            sea_label,
            sea_words,
            sea_valid,
            sea_key=sea_key,
            sea_word=sea_word,
            sea_top_n=sea_top_n,
            sea_scores=sea_scores,
        )
        return StepLosses(lm_loss_sum, num_tokens, sea_loss, num_pairs, visual_IPD.detach())

    def align(
        self,
        visual_IPD: Tensor,
        sea_patch: Tensor,
        sea_label: Tensor,
        sea_words: Tensor,
        sea_valid: Tensor,
        *,
        sea_key: Tensor | None = None,
        sea_word: Tensor | None = None,
        sea_top_n: Tensor | None = None,
        sea_scores: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return L_a (eq. 11) and its number of pairs; of the LLM only its embeddings are used.

        `visual_IPD` are the projected patches; all else is as in `forward`.
        """
        assert self.head is not None
        group = dist.group.WORLD if self.negatives == "global" and dist.is_initialized() else None
        visual_ND = visual_IPD.flatten(0, 1)[sea_patch]
        if sea_word is None:
            assert sea_key is not None
            return self._paired_loss(visual_ND, sea_label, sea_key, sea_words, sea_valid, group)
        batch = LabelledBatch(
            sea_label, sea_key, sea_valid, sea_word, sea_words, sea_top_n, sea_scores
        ).over_ranks(group)
        text_UD = word_targets(self.embed(batch.words_UT.clamp(min=0)), batch.words_UT >= 0)
        loss: Tensor = self.head(visual_ND, text_UD, None, group, batch.patch_labels())
        return loss, batch.num_pairs(group)

    def _paired_loss(
        self,
        visual_ND: Tensor,
        label_N: Tensor,
        key_N: Tensor,
        words_NT: Tensor,
        valid_N: Tensor,
        group: dist.ProcessGroup | None,
    ) -> tuple[Tensor, Tensor]:
        """Return the paper's loss, one patch a label, and the number of pairs."""
        assert self.head is not None
        if group is not None:
            words_NT, label_N, key_N, valid_N = gather_rows(
                words_NT, label_N, key_N, valid_N, group=group
            )
            valid_N = keep_one_per_label(label_N, key_N, valid_N)
        text_MD = word_targets(self.embed(words_NT.clamp(min=0)), words_NT >= 0)
        return self.head(visual_ND, text_MD, valid_N, group), valid_N.sum()

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
