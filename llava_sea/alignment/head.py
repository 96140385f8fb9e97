"""The alignment head: the learnable temperature of eq. 11, and the loss that it scales.

Shape letters: N own pairs, U distinct words, D hidden size.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llava_sea.alignment.batch import PatchWords
from llava_sea.alignment.loss import infonce, symmetric_infonce


class AlignmentHead(nn.Module):
    """The one trainable number of SEA: the log of the logit scale, 1/tau = exp(log_scale).

    What is trained is its distance from the start: under bfloat16 a step of 0.001 from 2.659 would
    be lost in rounding, one from 0 is not.
    """

    def __init__(self, log_scale_init: float = 0.0) -> None:
        """Start at ``tau = exp(-log_scale_init)``; 0 is the paper, ln(1/0.07) = 2.659 is CLIP."""
        super().__init__()
        self.log_scale_init = float(log_scale_init)
        # One element, not a scalar: DeepSpeed cannot broadcast parameters without a dimension.
        self.log_scale_delta = nn.Parameter(torch.zeros(1))

    @property
    def log_scale(self) -> Tensor:
        """The log of the logit scale, a float32 scalar."""
        return self.log_scale_init + self.log_scale_delta[0].float()

    def forward(
        self,
        visual_ND: Tensor,
        text_ND: Tensor,
        valid_N: Tensor | None = None,
        group: dist.ProcessGroup | None = None,
        words: PatchWords | None = None,
    ) -> Tensor:
        """Return the loss of a batch (eq. 11).

        Args:
            visual_ND: projected visual tokens ``(N, D)``.
            text_ND: targets (eq. 10), one a pair; with `words` one a distinct word, ``(U, D)``.
            valid_N: the pairs that take part; see `symmetric_infonce`. Not with `words`.
            group: the processes whose visual tokens are each other's negatives.
            words: which words belong to which patch; see `infonce`.
        """
        if words is not None:
            return infonce(visual_ND, text_ND, self.log_scale, words, group=group)
        return symmetric_infonce(visual_ND, text_ND, self.log_scale, valid_N, group=group)
