"""The LM loss of each record by itself (eq. 12): its mean over the record's supervised tokens.

Batches of like length for speed; a record's loss depends on nothing but the record. In float32 the
company it is in shows below 1e-5, in bfloat16 from the third digit on.

Shape letters: B records, L tokens, I images, P patches, D hidden size, K supervised tokens,
V words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from llava_sea.check.findings import Findings
from llava_sea.check.records import CheckedFile
from llava_sea.check.setup import Setup
from llava_sea.constants import IGNORE_INDEX
from llava_sea.data.collator import Collator
from llava_sea.data.dataset import LazySupervisedDataset, Loader
from llava_sea.data.image_source import open_images
from llava_sea.data.problems import LOSS
from llava_sea.errors import UserError
from llava_sea.files import open_atomically
from llava_sea.model.builder import build_llava
from llava_sea.model.stage1 import Stage1Model
from llava_sea.progress import Progress
from llava_sea.train.precision import build_options

_BATCHES_IN_A_BLOCK = 64


class RecordLoss(NamedTuple):
    """A record's mean loss and the ids of the tokens it is the mean over."""

    loss: float
    supervised_ids: list[int]


@torch.no_grad()
def record_losses(stage1: Stage1Model, batch: dict[str, Tensor]) -> list[RecordLoss]:
    """Compute the loss of each record of a collated batch, the model being in eval mode."""
    visual_IPD = stage1.project(batch["pixel_values"])
    hidden_BLD = stage1.hidden_states(
        visual_IPD,
        batch["input_ids"],
        batch["image_mask"],
        attention_mask=batch["attention_mask"],
    )
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
) -> Iterator[RecordLoss]:
    """Yield the loss of every record of a data set, in order.

    `lengths` are the records' numbers of tokens; the model is put into eval mode and moved.
    """
    stage1.eval().to(device)
    blocks = list(like_lengths(lengths, batch_size))
    order = [batch for block in blocks for batch in block]
    batches = iter(Loader(dataset, collator, batch_sampler=order, num_workers=num_workers))
    for block in blocks:
        found: dict[int, RecordLoss] = {}
        for indices in block:
            batch = {name: value.to(device) for name, value in next(batches).items()}
            found |= zip(indices, record_losses(stage1, batch), strict=True)
        yield from (found[index] for index in sorted(found))


def write_losses(
    path: str, setup: Setup, checked: CheckedFile, findings: Findings, num_workers: int
) -> None:
    """Write each record's loss as a JSON line; the file appears when it is whole.

    Losses that are not finite are written as null and go to `findings`.
    """
    _, data, _, args = setup.arguments
    llava = build_llava(**build_options(setup.arguments))
    dataset = setup.reader.like(checked.records, open_images(data.image_folder, checked.records))
    losses = all_losses(
        Stage1Model(llava),
        dataset,
        Collator.of(dataset, setup.num_rows),
        checked.lengths,
        batch_size=args.per_device_eval_batch_size,
        device=args.device,
        num_workers=num_workers,
    )
    try:
        shown = Progress("losses", len(dataset))
        with shown as progress, open_atomically(Path(path)) as file:
            for record, (loss, ids) in zip(checked.records, losses, strict=True):
                finite = loss if abs(loss) < float("inf") else None
                if finite is None:
                    findings.add(record.error(LOSS, f"it is {loss}"))
                row = {"id": record.id, "index": record.index, "loss": finite}
                row |= {"num_tokens": len(ids), "supervised_ids": ids}
                file.write(json.dumps(row).encode() + b"\n")
                progress.update()
    except OSError as error:
        raise UserError(f"--losses {path}: cannot be written ({error.strerror})") from None
