"""Memory, time and disk of a recipe: computed, measured where the machine can, and what helps."""

from __future__ import annotations

import gc
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import LlavaConfig

from llava_sea.alignment.sampling import num_windows
from llava_sea.data.images import patch_grid
from llava_sea.files import read_json
from llava_sea.preflight.memory import (
    RESERVE,
    Step,
    as_json,
    count,
    fits,
    memory_of,
    ways_to_fit,
)
from llava_sea.preflight.page import WARNING, Line, red
from llava_sea.preflight.random_batches import Sizes
from llava_sea.preflight.steps import FLAGS
from llava_sea.train.arguments import Arguments
from llava_sea.train.deepspeed_config import read_engine
from llava_sea.train.output_dir import ADAM_BYTES

SMALL = 100e6
"""Parameters of a model that a CPU can train for a few steps."""
LIMIT_S = 240
"""Seconds that the steps of a stage may take, loading included."""

_LONGEST, _MEAN = Sizes(2048, 512, 1), Sizes(1024, 256, 1)
"""Of a record, where the data cannot be looked at."""


@dataclass
class Stage:
    """A stage of the recipe: its flags, its data, and what was measured."""

    number: int  # 0: stage 1's warm start
    flags: list[str]
    arguments: Arguments
    world: int
    dtype: str
    config: LlavaConfig | None = None
    records: int = 0
    images: int = 0
    longest: Sizes = _LONGEST
    mean: Sizes = _MEAN
    measured: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """How lines call it."""
        return f"stage {self.number}" if self.number else "warm start"

    @property
    def batch(self) -> int:
        """Records of an optimizer step."""
        args = self.arguments.training
        each = args.per_device_train_batch_size * args.gradient_accumulation_steps
        return int(each) * self.world

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        args = self.arguments.training
        if args.max_steps > 0:
            return int(args.max_steps)
        return int(args.num_train_epochs * -(-self.records // self.batch))

    def step(self) -> Step:
        """Return what decides a step's memory."""
        model, _, sea, args = self.arguments
        zero: dict[str, Any] = {}
        if args.deepspeed:
            zero = read_engine(args.deepspeed)["zero_optimization"]
        assert self.config is not None
        pairs = 0
        if self.number == 1 and sea.enabled:
            windows = num_windows(patch_grid(self.config.vision_config), sea.sea_window)
            pairs = windows * args.per_device_train_batch_size
        return Step(
            stage=self.number,
            batch=args.per_device_train_batch_size,
            length=self.longest.length,
            supervised=self.longest.supervised,
            images=self.longest.images,
            dtype=self.dtype,
            world=self.world,
            zero=zero.get("stage"),
            offload_optimizer=_offloads(zero, "offload_optimizer"),
            offload_weights=_offloads(zero, "offload_param"),
            recompute=bool(
                getattr(args, "activation_checkpointing", None)
                or getattr(args, "gradient_checkpointing", None)
            ),
            optimizer=str(getattr(args.optim, "value", args.optim)),
            attention=args.attn_implementation or "sdpa",
            fused_loss=args.use_liger_kernel,
            pairs=pairs,
            lora_rank=args.lora_r if args.lora_enable else 0,
            bits=args.bits,
            train_llm=not model.freeze_backbone,
            train_projector=not args.freeze_mm_mlp_adapter,
            train_tower=model.unfreeze_mm_vision_tower,
        )


def _offloads(zero: dict[str, Any], name: str) -> bool:
    return (zero.get(name) or {}).get("device", "none") != "none"


def memory_line(stage: Stage, memory: float, where: str) -> Line:
    """Compute a stage's memory by part, and compare with what there is and what was measured."""
    name, step = f"memory {stage.number}", stage.step()
    assert stage.config is not None
    parts = memory_of(stage.config, step)
    listed = (
        f"{part} {_gb(getattr(parts, part))}"
        for part in ("weights", "gradients", "optimizer", "activations", "logits")
    )
    found = f"{stage.name}: computed {_gb(parts.total)} a process ({', '.join(listed)})"
    if parts.host:
        found += f" and {_gb(parts.host)} of main memory"
    peak = stage.measured.get("peak")
    full = "out_of_memory" in stage.measured
    if peak:
        found += f"; measured {_gb(peak)}"
    elif full:
        found += "; measured: out of memory"
    found += f"; there are {_gb(memory)} ({where})"
    details = as_json(step, parts) | {"memory": memory, "measured": stage.measured}
    # Main memory keeps nothing for a driver.
    room = memory if where.startswith("GPU") else memory + RESERVE
    if not full and (fits(parts, room) if peak is None else peak <= memory):
        return Line(name, found, details=details)
    accumulation = stage.arguments.training.gradient_accumulation_steps
    flags = ways_to_fit(stage.config, step, accumulation, 0.8 * room if full else room)
    way_out = "take more or larger GPUs, or a smaller LLM: no flag here makes it fit"
    if flags:
        way_out = f"add {'; '.join(flags)}"
    if any("offload" in flag for flag in flags):
        moved = replace(step, zero=3, offload_optimizer=True, offload_weights=True)
        way_out += f" ({_gb(memory_of(stage.config, moved).host)} of main memory a process)"
    return red(name, f"does not fit. {found}", way_out, **details, flags=flags)


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def memory_here(world: int, assumed: float | None) -> tuple[float, str]:
    """Return the bytes that a process has, and where."""
    if torch.cuda.is_available():
        sizes = [torch.cuda.mem_get_info(n)[1] for n in range(torch.cuda.device_count())]
        return float(min(sizes)), "GPU"
    if assumed:
        return assumed, "GPU (assumed)"
    return psutil.virtual_memory().available / world, "main memory"


def steps_line(stage: Stage) -> Line:
    """Take a few steps on random data, with training's own code."""
    name = f"steps {stage.number}"
    assert stage.config is not None
    counts = count(stage.config, stage.step())
    if not torch.cuda.is_available() and counts.trained + counts.frozen > SMALL:
        million = (counts.trained + counts.frozen) / 1e6
        found = f"{stage.name}: not measured, no GPU here for {million:,.0f} million parameters"
        return Line(name, found, WARNING, "run this page again on the machine with the GPUs")
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        done = _launch(stage, result, folder)
        if result.is_file():
            stage.measured = read_json(result)
    measured = stage.measured
    if "out_of_memory" in measured:
        found = f"{stage.name}: {measured['out_of_memory']}"
        return red(name, found, f"add the flags that the line memory {stage.number or 1} names")
    if "step" not in measured:
        said = [line for line in done.splitlines() if "rror" in line] or done.splitlines()
        told = said[-1] if said else "nothing was said"
        way_out = "fix what it says (more of it is in the JSON file), or report the fault"
        return red(name, f"{stage.name}: {told[:300]}", way_out, output=done[-4000:])
    found = f"{stage.name}: {measured['step']:.3g} s for {stage.world} x "
    found += f"{stage.arguments.training.per_device_train_batch_size} records of "
    found += f"{stage.mean.length} tokens"
    if "plain_step" in measured:
        added = measured["step"] / measured["plain_step"] - 1
        found += f"; without SEA {measured['plain_step']:.3g} s ({added:+.0%} with it)"
    return Line(name, found, details=measured)


def _launch(stage: Stage, result: Path, folder: str) -> str:
    """Start the ranks and wait for them; return what they said."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    changed = FLAGS | {"output_dir": f"{folder}/run", "num_train_epochs": "1"}
    kept = without(stage.flags, (*changed, "max_steps"))
    flags = [word for k, v in changed.items() if v is not None for word in (f"--{k}", v)]
    command = [sys.executable, "-m", "llava_sea.train.launch", "--num_gpus", str(stage.world)]
    command += ["--master_port", str(port), "--module", "llava_sea.preflight.steps"]
    command += [str(result), json.dumps([stage.longest, stage.mean]), *kept, *flags]
    here = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    if not torch.cuda.is_available():
        here |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    gc.collect()
    torch.cuda.empty_cache()  # what the lines before have used
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | here
    )
    try:
        return process.communicate(timeout=LIMIT_S)[0]
    except subprocess.TimeoutExpired:
        process.terminate()  # the launcher ends its ranks
        said = process.communicate()[0]
        return f"{said}\nerror: the steps took more than {LIMIT_S} s, loading included"
    finally:  # of this page, too, when it is told to end
        if process.poll() is None:
            process.terminate()
            process.wait()


def without(flags: Sequence[str], beginnings: tuple[str, ...]) -> list[str]:
    """Leave out the flags whose names begin so, with their values."""
    kept, skipping = [], False
    for word in flags:
        if word.startswith("--"):
            skipping = word[2:].startswith(beginnings)
        if not skipping:
            kept.append(word)
    return kept


def time_line(stages: Sequence[Stage], label_rate: float, to_label: int) -> Line:
    """Say how many hours labels and stages take on this machine, and what SEA adds."""
    parts, details, missing = [], {}, []
    if label_rate and to_label:
        details["labels"] = to_label / label_rate / 3600
        parts.append(f"labels {_hours(details['labels'])}")
    for stage in stages:
        if "step" not in stage.measured or not stage.records:
            missing.append(stage.name)
            continue
        accumulation = stage.arguments.training.gradient_accumulation_steps
        hours = stage.steps * accumulation * stage.measured["step"] / 3600
        details[stage.name] = hours
        told = f"{stage.name} {_hours(hours)} ({stage.steps:,} steps)"
        if plain := stage.measured.get("plain_step"):
            added = hours * (1 - plain / stage.measured["step"])
            details["SEA adds"] = added
            told += f", SEA's part {_hours(max(0.0, added))}"
        parts.append(told)
    if not parts:
        return Line(
            "time",
            "unknown: no step was measured",
            WARNING,
            "run this page again on the machine with the GPUs",
        )
    way_out = "" if not missing else f"{', '.join(missing)} could not be measured: see the lines"
    found = f"{'; '.join(parts)} (data loading is not counted)"
    return Line("time", found, WARNING if missing else "ok", way_out, details)


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"


def disk_needs(stages: Sequence[Stage]) -> dict[Path, float]:
    """Return the bytes that results of the stages need, by their folders."""
    needed: dict[Path, float] = defaultdict(float)
    for stage in stages:
        if stage.config is None:
            continue
        step, args = stage.step(), stage.arguments.training
        counts = count(stage.config, step)
        width = torch.empty((), dtype=getattr(torch, step.dtype)).element_size()
        whole = stage.number == 2 and not step.lora_rank
        # As `check_room`: the model twice, in the checkpoint and at the end.
        model = width * (counts.trained + counts.frozen) if whole else 4 * counts.trained
        saved = 0 if args.save_strategy == "no" else model + ADAM_BYTES * counts.trained
        needed[Path(args.output_dir or ".").absolute()] += model + saved
    return needed


def disk_line(needed: dict[Path, float]) -> Line:
    """Compare what results need with what is free, file system by file system."""
    if not needed:
        return Line("disk", "unknown: no model could be looked at", WARNING, "see the lines above")
    by_disk: dict[int, list[tuple[Path, float]]] = defaultdict(list)
    for folder, size in needed.items():
        there = next(path for path in (folder, *folder.parents) if path.exists())
        by_disk[there.stat().st_dev].append((there, size))
    told, full, details = [], [], []
    for found in by_disk.values():
        place, total = found[0][0], sum(size for _, size in found)
        free = shutil.disk_usage(place).free
        told.append(f"{_gb(total)} needed, {_gb(free)} free at {place}")
        details.append({"needed": total, "free": free, "place": str(place)})
        if free < total:
            full.append(str(place))
    if full:
        way_out = f"make room at {', '.join(full)}, choose another OUTPUT_DIR or LABELS, or pass "
        way_out += "--save_strategy no (then nothing can be resumed)"
        return red("disk", "; ".join(told), way_out, disks=details)
    return Line("disk", "; ".join(told), details={"disks": details})
