"""The loop of the warm start: stage 1's order of records, optimizer and schedule, no engine."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.utils import send_to_device
from torch import nn
from torch.utils.data import DataLoader

from llava_sea.alignment import PatchWords
from llava_sea.data.collator import Collator
from llava_sea.data.dataset import LazySupervisedDataset
from llava_sea.data.sampler import EpochBatchSampler
from llava_sea.errors import UserError, naming
from llava_sea.model.stage1 import Stage1Model
from llava_sea.progress import Progress
from llava_sea.train.arguments import TrainingArguments
from llava_sea.train.stop import guard_worker


def train(
    model: Stage1Model,
    dataset: LazySupervisedDataset,
    collator: Collator,
    args: TrainingArguments,
    metrics: Path,
) -> None:
    """Train the projector and the temperature on L_a.

    Args:
        model: of `build_model`.
        dataset: records with labels.
        collator: makes batches of them.
        args: steps, rates, batch size, accumulation, seed.
        metrics: file for a line every ``--logging_steps``.
    """
    loader, accumulation = _loader(dataset, collator, args), args.gradient_accumulation_steps
    steps = args.max_steps
    if steps <= 0:
        steps = math.ceil(args.num_train_epochs * len(loader) / accumulation)
    optimizer, schedule = _optimizer(model, args, steps)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    batches = _batches(loader, args.device)
    model.train()
    shown = Progress("steps", steps, every=5.0)
    with naming(metrics), open(metrics, "w") as file, shown as progress:
        for step in range(1, steps + 1):
            loss = pairs = 0.0
            for batch in islice(batches, accumulation):
                part, num_pairs = _loss(model, batch, args)
                (part / accumulation).backward()
                loss += float(part.detach()) / accumulation
                pairs += int(num_pairs) / accumulation
            if args.max_grad_norm and args.max_grad_norm > 0:
                nn.utils.clip_grad_norm_(trained, args.max_grad_norm)
            rate = optimizer.param_groups[0]["lr"]
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            if not math.isfinite(loss):
                raise UserError(f"L_a is {loss} at step {step}: lower --learning_rate")
            row = {"step": step, "sea_loss": loss, "sea_pairs": pairs, "learning_rate": rate}
            if step % max(1, int(args.logging_steps)) == 0 or step == steps:
                row["temperature"] = model.temperature()
                file.write(json.dumps(row) + "\n")
                file.flush()
                text = f"L_a {loss:.3f}  tau {row['temperature']:.4g}  N {pairs:.4g}"
                progress.set_postfix_str(text, refresh=False)
                progress.update(step - progress.n)


def _loss(model: Stage1Model, batch: dict[str, Any], args: TrainingArguments) -> Any:
    with torch.autocast(args.device.type, torch.bfloat16, enabled=args.bf16):
        visual_IPD = model.project(batch["pixel_values"])
        return model.align(visual_IPD, PatchWords(**batch["sea"]))


def _loader(
    dataset: LazySupervisedDataset, collator: Collator, args: TrainingArguments
) -> DataLoader[Any]:
    """Read the records in the order in which stage 1 would on one device."""
    epochs = count()
    sampler = EpochBatchSampler(
        len(dataset),
        args.per_device_train_batch_size,
        rank=0,
        world_size=1,
        seed=args.data_seed if args.data_seed is not None else args.seed,
        epoch_of=lambda: next(epochs),
        drop_last=args.dataloader_drop_last,
    )
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collator,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory and torch.cuda.is_available(),
        worker_init_fn=guard_worker,
    )


def _batches(loader: DataLoader[Any], device: torch.device) -> Iterator[dict[str, Any]]:
    while True:
        for batch in loader:
            yield send_to_device(batch, device, non_blocking=True)


def _optimizer(model: Stage1Model, args: TrainingArguments, steps: int) -> tuple[Any, Any]:
    """Return AdamW, its weight decay for matrices, with the flags' schedule."""
    head, rate = model.head, args.learning_rate
    assert head is not None
    own = rate if args.mm_projector_lr is None else args.mm_projector_lr
    matrices = [p for p in model.projector.parameters() if p.ndim > 1]
    biases = [p for p in model.projector.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "lr": own, "weight_decay": args.weight_decay},
        {"params": biases, "lr": own, "weight_decay": 0.0},
        {"params": [head.log_scale_delta], "lr": rate, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups, rate, betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_epsilon
    )
    options: Any = args.lr_scheduler_kwargs  # a dict once it is parsed
    schedule = transformers.get_scheduler(
        args.lr_scheduler_type,
        optimizer,
        num_warmup_steps=args.get_warmup_steps(steps),
        num_training_steps=steps,
        scheduler_specific_kwargs=options or None,
    )
    return optimizer, schedule
