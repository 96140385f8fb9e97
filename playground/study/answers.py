"""Zero-shot answers: what an LLM says about a picture after stage 1, before any instruction tuning.

BOS, the visual tokens, the question, the answer; right if every token of the answer is the LLM's
first choice where it belongs. One forward pass (teacher-forced) tells that, and equals greedy
generation. The end of the answer is not asked for.

Shape letters: B questions, L tokens, K answer tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llava_sea.constants import IGNORE_INDEX
from llava_sea.data.tokenize import PLACEHOLDER_ID
from llava_sea.model.stage1 import Stage1Model

Collate = Callable[[Sequence[dict[str, Tensor]]], dict[str, Tensor]]


class Answers:
    """Measures a `Stage1Model` on questions about pictures."""

    def __init__(
        self,
        questions: Sequence[Mapping[str, str]],
        features_IPD: NDArray[np.float32],
        tokenizer: Any,
        collate: Collate,
        *,
        batch_size: int = 64,
    ) -> None:
        """Tokenise.

        Args:
            questions: ``kind``, ``prompt`` and ``answer`` of each.
            features_IPD: what the projector gets for each question's picture.
            tokenizer: the LLM's.
            collate: makes batches of samples.
            batch_size: questions of one forward pass.
        """
        self.kinds = [question["kind"] for question in questions]
        image_tokens = features_IPD.shape[1]
        samples = [_sample(question, tokenizer, image_tokens) for question in questions]
        for sample, features_PD in zip(samples, features_IPD, strict=True):
            sample["pixel_values"] = torch.from_numpy(np.array(features_PD))[None]
        # Of like length together: less padding, the same answers.
        self._order = sorted(range(len(samples)), key=lambda i: len(samples[i]["input_ids"]))
        self._batches = [
            collate([samples[i] for i in self._order[start : start + batch_size]])
            for start in range(0, len(samples), batch_size)
        ]

    @torch.no_grad()
    def measure(self, stage1: Stage1Model) -> dict[str, float]:
        """Return the share of right answers by kind of question, in the order of first mention."""
        right = [row for batch in self._batches for row in is_right(stage1, batch).tolist()]
        by_kind: dict[str, list[bool]] = {kind: [] for kind in dict.fromkeys(self.kinds)}
        for i, row in zip(self._order, right, strict=True):
            by_kind[self.kinds[i]].append(row)
        return {kind: float(np.mean(rows)) for kind, rows in by_kind.items()}


def is_right(stage1: Stage1Model, batch: Mapping[str, Tensor]) -> Tensor:
    """Say for each row of a batch whether all supervised tokens are the model's first choice."""
    embeds_BLD = stage1.embed(batch["input_ids"])
    visual_IPD = stage1.project(batch["pixel_values"]).to(embeds_BLD.dtype)
    embeds_BLD = embeds_BLD.masked_scatter(batch["image_mask"][..., None], visual_IPD)
    hidden_BLD = stage1.llava.model.language_model(
        inputs_embeds=embeds_BLD, attention_mask=batch["attention_mask"], use_cache=False
    ).last_hidden_state
    wanted_BL = batch["labels"][:, 1:]
    supervised_BL = wanted_BL != IGNORE_INDEX
    best_K = stage1.llava.lm_head(hidden_BLD[:, :-1][supervised_BL]).argmax(-1)
    wrong_BL = torch.zeros_like(supervised_BL)
    wrong_BL[supervised_BL] = best_K != wanted_BL[supervised_BL]
    return ~wrong_BL.any(1)


def _sample(question: Mapping[str, str], tokenizer: Any, image_tokens: int) -> dict[str, Tensor]:
    """Tokenise prompt and answer each on its own, as the LLM's documents are."""
    bos = [tokenizer.bos_token_id]
    prompt, answer = (
        tokenizer(question[part], add_special_tokens=False)["input_ids"]
        for part in ("prompt", "answer")
    )
    before = len(bos) + image_tokens + len(prompt)
    mask = torch.zeros(before + len(answer), dtype=torch.bool)
    mask[len(bos) : len(bos) + image_tokens] = True
    return {
        "input_ids": torch.tensor([*bos, *[PLACEHOLDER_ID] * image_tokens, *prompt, *answer]),
        "labels": torch.tensor([IGNORE_INDEX] * before + answer),
        "image_mask": mask,
    }
