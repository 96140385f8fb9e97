"""A few steps of training itself on random data: its memory and its time on this machine.

Started by the launcher, as training is: the model with its real weights, the engine, the optimizer
and the trainer are training's, only the records are made up. Of the batches the first is of the
longest records (memory), the next two of the mean ones (time), and with SEA two more are without
(what it adds). The result is a JSON file; a step that does not fit is told there, too.

Limits: data loading is not in the time (workers do it beside the GPU), nor are checkpoints.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from llava_sea.alignment.sampling import num_windows
from llava_sea.data.collator import Collator
from llava_sea.data.images import patch_grid
from llava_sea.errors import run_command
from llava_sea.model.towers import first_patch, num_patches
from llava_sea.preflight.random_batches import Blanks, MadeUp, Sizes, random_words
from llava_sea.train import stage1, stage2
from llava_sea.train.arguments import Arguments
from llava_sea.train.parse import parse_args
from llava_sea.train.precision import weights_dtype
from llava_sea.train.saving import Stage1Saver
from llava_sea.train.train import image_transform, init_distributed, make_trainer, set_up_logging
from llava_sea.train.train_mem import pick_attention
from llava_sea.train.trainer import Prepared

FLAGS = {
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": "none",
    "dataloader_num_workers": "0",
    "gradient_accumulation_steps": "1",
    "resume_from_checkpoint": None,
}
"""Of training's own, what these steps change."""


class Stopwatch(TrainerCallback):
    """Takes each step's seconds, and the first one's memory."""

    def __init__(self, before: int) -> None:
        self.before, self.seconds, self.peak = before, list[float](), 0
        self.started = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start."""
        _wait()
        self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop."""
        _wait()
        self.seconds.append(time.perf_counter() - self.started)
        self.peak = self.peak or peak_bytes() - self.before


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_bytes() -> int:
    """Return the most that this process has held: of GPU memory, without one of main memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def prepare(arguments: Arguments, longest: Sizes, mean: Sizes) -> tuple[Prepared, int]:
    """Build a stage's parts with made-up records; return them and the number of steps."""
    model_args, _, sea, args = arguments
    transform = image_transform(arguments)
    if model_args.tune_mm_mlp_adapter:
        model_args.pretrain_mm_mlp_adapter = None  # a warm start's comes later
        model = stage1.build_model(arguments)
        config = model.llava.config
        grid = patch_grid(config.vision_config)
        windows = num_windows(grid, sea.sea_window)
        collator = Collator(
            0,
            transform.resolution,
            num_patches(config.vision_config),
            windows * args.per_device_train_batch_size if sea.enabled else 0,
            random_words(model.num_rows) if sea.enabled else None,
        )
        parts = Prepared(model, Blanks(0, 0), collator, Stage1Saver({}))
    else:
        path = Path(str(model_args.pretrain_mm_mlp_adapter or ""))
        if not path.exists():  # stage 1's, which has not run
            model_args.pretrain_mm_mlp_adapter = None
        parts = stage2.prepare([], "", transform, arguments)
        config = parts.model.config
        grid = patch_grid(config.vision_config)
    plan = [(longest, True), (mean, True), (mean, True)]
    if sea.enabled and not sea.sea_align_only:
        plan += [(mean, False)] * 2
    count = args.per_device_train_batch_size * args.world_size * (len(plan) + 1)
    parts.dataset = Blanks(count, mean.length)
    shape = parts.model.num_rows, grid, sea.sea_window, first_patch(config)
    parts.collator = MadeUp(parts.collator, plan, *shape)  # type: ignore[assignment]
    return parts, len(plan)


def take_steps(arguments: Arguments, longest: Sizes, mean: Sizes) -> dict[str, Any]:
    """Train for a few steps; return seconds, and bytes of the fullest process."""
    args = arguments.training
    before = 0 if torch.cuda.is_available() else peak_bytes()
    parts, args.max_steps = prepare(arguments, longest, mean)
    watch = Stopwatch(before)
    trainer = make_trainer(parts, arguments, [watch])
    trainer.train()
    most = torch.tensor([float(watch.peak), *watch.seconds], device=args.device)
    if args.world_size > 1:
        dist.all_reduce(most, dist.ReduceOp.MAX)
    peak, *seconds = most.tolist()
    result = {"peak": int(peak), "seconds": seconds, "step": min(seconds[1:3])}
    if len(seconds) > 3:
        result["plain_step"] = min(seconds[3:])
    return result


def main() -> None:
    """Read ``RESULT LENGTHS FLAGS...``, take the steps, write the result."""
    # DeepSpeed's launcher puts its own flag first.
    ours = [word for word in sys.argv[1:] if not word.startswith("--local_rank=")]
    result_path, sizes = Path(ours[0]), [Sizes(*one) for one in json.loads(ours[1])]
    set_up_logging()
    flags = ours[2:]
    if "WORLD_SIZE" in os.environ and any(flag.startswith("--deepspeed") for flag in flags):
        init_distributed()
    arguments = parse_args(flags)
    args = arguments.training
    args.attn_implementation = args.attn_implementation or pick_attention(weights_dtype(args))
    torch.manual_seed(args.seed)
    try:
        result = take_steps(arguments, *sizes)
    except torch.OutOfMemoryError as error:
        result = {"out_of_memory": str(error).splitlines()[0]}
        result_path.write_text(json.dumps(result))
        raise
    if args.process_index == 0:
        result_path.write_text(json.dumps(result))
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    run_command(main)
