"""One training loop for all of the world's models: Muon and AdamW, warm-up and cosine, resumable.

Muon for the matrices of the blocks, AdamW for the rest, bfloat16 matrix products (on a CPU with
AVX512_BF16 4.5 x as fast as float32 ones), float32 weights.
Each step draws its batch from the step's own seed, so a resumed run sees what the unbroken one
would have seen. The state is a file of tensors that is replaced atomically and loaded with
`weights_only=True`. Limits: one process.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from llava_sea.progress import Progress

STATE_FOLDER = Path(__file__).parent / "data" / "build"
"""Where unfinished trainings keep their state."""

SAVE_EVERY_S = 45.0


def training_device() -> torch.device:
    """Where the world's models are trained: a GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """Name that device for a model card."""
    if training_device().type == "cuda":
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU thread" + ("s" if torch.get_num_threads() > 1 else "")


@dataclass(frozen=True)
class Schedule:
    """Steps and learning rates of one training."""

    steps: int
    learning_rate: float
    warmup: int = 40
    weight_decay: float = 0.05
    last_share: float = 0.02
    stop: int | None = None
    """End after so many steps of the schedule, with the rate still high; None: after all."""

    @property
    def end(self) -> int:
        """The number of steps that are made."""
        return self.steps if self.stop is None else min(self.steps, self.stop)

    def rate(self, step: int) -> float:
        """The learning rate of a step (0-based)."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        share = self.last_share + (1 - self.last_share) * 0.5 * (1 + math.cos(math.pi * done))
        return self.learning_rate * share


def make_optimizers(model: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for matrices inside blocks ("layers."), AdamW for all else.

    Muon's steps are scaled to the size of AdamW's, so both take the schedule's rate. Matrices
    decay, vectors and scalars do not.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    hidden = [p for n, p in named if p.ndim == 2 and "layers." in n]
    tables = [p for n, p in named if p.ndim >= 2 and not (p.ndim == 2 and "layers." in n)]
    vectors = [p for _, p in named if p.ndim < 2]
    groups = [
        {"params": tables, "weight_decay": schedule.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [
        torch.optim.Muon(
            hidden,
            lr=schedule.learning_rate,
            weight_decay=schedule.weight_decay,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.98)),
    ]


def fit(
    name: str,
    model: nn.Module,
    loss_of_step: Callable[[int], torch.Tensor],
    schedule: Schedule,
    *,
    resume: bool = False,
    state_folder: Path = STATE_FOLDER,
) -> float:
    """Train a model in place.

    Args:
        name: names the state file and the progress line.
        model: gets gradients from the losses; it is moved to `training_device`.
        loss_of_step: draws the step's batch and returns its loss.
        schedule: steps and rates.
        resume: go on from the state of an unfinished run, if there is one.
        state_folder: where the state file lies. It stays when training ends, so that a build of
            several parts can be resumed after any of them.

    Returns:
        Seconds that the training took, all its parts together.
    """
    device = training_device()
    model.to(device)
    optimizers = make_optimizers(model, schedule)
    path = state_folder / f"{name}_state.pt"
    first, seconds = 0, 0.0
    if resume and path.is_file():
        state = torch.load(path, weights_only=True, map_location=device)
        if state["steps"] == schedule.end:
            model.load_state_dict(state["model"])
            for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            first, seconds = state["step"], state["seconds"]
    model.train()
    started = saved = time.monotonic()
    progress = Progress(f"{name}: steps", schedule.end, done=first, every=30.0)
    mean_loss = float("nan")
    for step in range(first, schedule.end):
        with torch.autocast(device.type, torch.bfloat16):
            loss = loss_of_step(step)
        model.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
            optimizer.step()
        value = loss.item()
        mean_loss = value if math.isnan(mean_loss) else 0.95 * mean_loss + 0.05 * value
        progress.set_postfix_str(f"loss {mean_loss:.3f}", refresh=False)
        progress.update()
        if time.monotonic() - saved > SAVE_EVERY_S and step + 1 < schedule.end:
            saved = time.monotonic()
            spent = seconds + saved - started
            _save_state(path, model, optimizers, step + 1, schedule.end, spent)
    progress.close()
    model.to("cpu").eval()
    seconds += time.monotonic() - started
    _save_state(path, model, optimizers, schedule.end, schedule.end, seconds)
    return seconds


def _save_state(
    path: Path,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    step: int,
    steps: int,
    seconds: float,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "step": step,
        "steps": steps,
        "seconds": seconds,
    }
    torch.save(state, partial)
    os.replace(partial, path)
