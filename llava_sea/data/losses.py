"""The LM loss of each record by itself (eq. 12): its mean over the record's supervised tokens.

Batches of like length for speed; a record's loss depends on nothing but the record. In float32 the
company it is in shows below 1e-5, in bfloat16 from the third digit on.

Shape letters: B records, L tokens, D hidden size, K supervised tokens, V words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from llava_sea.constants import IGNORE_INDEX
from llava_sea.data.collator import Collator
from llava_sea.data.dataset import LazySupervisedDataset
from llava_sea.model.stage1 import Stage1Model

_BATCHES_IN_A_BLOCK = 64


class RecordLoss(NamedTuple):
    """A record's mean loss and the ids of the tokens it is the mean over."""

    loss: float
    supervised_ids: list[int]


@torch.no_grad()
def record_losses(stage1: Stage1Model, batch: dict[str, Tensor]) -> list[RecordLoss]:
    """Compute the loss of each record of a batch as `Stage1Model` computes their sum.

    Args:
        stage1: the model, in eval mode.
        batch: as the collator makes it, on the model's device.
    """
    visual_IPD = stage1.project(batch["pixel_values"])
    embeds_BLD = stage1.embed(batch["input_ids"])
    embeds_BLD = embeds_BLD.masked_scatter(
        batch["image_mask"][..., None], visual_IPD.to(embeds_BLD.dtype)
    )
    hidden_BLD = stage1.llava.model.language_model(
        inputs_embeds=embeds_BLD, attention_mask=batch["attention_mask"], use_cache=False
    ).last_hidden_state
    target_BL = batch["labels"][:, 1:]
    supervised_BL = target_BL != IGNORE_INDEX
    logits_KV = stage1.llava.lm_head(hidden_BLD[:, :-1][supervised_BL]).float()
    target_K = target_BL[supervised_BL]
    loss_K = cross_entropy(logits_KV, target_K, reduction="none").double().cpu()
    counts = supervised_BL.sum(1).tolist()
    return [
        RecordLoss(float(losses.mean()), ids.tolist())
        for losses, ids in zip(loss_K.split(counts), target_K.cpu().split(counts), strict=True)
    ]


def like_lengths(lengths: Sequence[int], batch_size: int) -> Iterator[list[list[int]]]:
    """Yield blocks of batches of indices: blocks in order, batches of like length within one."""
    block = batch_size * _BATCHES_IN_A_BLOCK
    for first in range(0, len(lengths), block):
        order = sorted(range(first, min(first + block, len(lengths))), key=lengths.__getitem__)
        yield [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def all_losses(
    stage1: Stage1Model,
    dataset: LazySupervisedDataset,
    collator: Collator,
    lengths: Sequence[int],
    *,
    batch_size: int,
    device: torch.device,
    num_workers: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[RecordLoss]:
    """Yield the loss of every record of a data set, in order.

    Args:
        stage1: the model; put into eval mode and moved to `device`.
        dataset: the records, without labels.
        collator: makes batches of them.
        lengths: each record's number of tokens.
        batch_size: records of one forward pass.
        device: where to compute.
        num_workers: processes that read pictures.
        progress: called with the number of records done.
    """
    stage1.eval().to(device)
    blocks = list(like_lengths(lengths, batch_size))
    loader = DataLoader(
        dataset,
        batch_sampler=[batch for block in blocks for batch in block],
        collate_fn=collator,
        num_workers=num_workers,
    )
    batches = iter(loader)
    done = 0
    for block in blocks:
        found: dict[int, RecordLoss] = {}
        for indices in block:
            batch = {name: value.to(device) for name, value in next(batches).items()}
            found |= zip(indices, record_losses(stage1, batch), strict=True)
            done += len(indices)
            progress(done)
        yield from (found[index] for index in sorted(found))
