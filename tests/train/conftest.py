"""Runs of both stages: in this process, as forked ranks of DeepSpeed, and under the launcher."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState

from llava_sea.train import stage1, stage2
from llava_sea.train.train import train
from tests import worlds


@pytest.fixture
def stage1_flags(tiny, tiny_labels) -> Callable[..., list[str]]:
    """Flags of a short run; keyword arguments change or (None) drop one."""

    def flags(output_dir, **changes) -> list[str]:
        values = {
            "model_name_or_path": tiny.llm,
            "vision_tower": tiny.clip,
            "version": "plain",
            "tune_mm_mlp_adapter": True,
            "data_path": tiny.data,
            "image_folder": tiny.images,
            "sea_labels": tiny_labels,
            "sea_eval_data": tiny.heldout,
            "sea_eval_word_list": tiny.words,
            "sea_eval_steps": 4,
            "output_dir": output_dir,
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 4,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "cosine",
            "max_steps": 6,
            "logging_steps": 1,
            "save_strategy": "steps",
            "save_steps": 2,
            "dataloader_num_workers": 0,
            "report_to": "none",
        }
        return worlds.command_line(values | changes)

    return flags


@pytest.fixture(scope="session")
def instructions(tiny, tmp_path_factory) -> Path:
    """Conversations as LLaVA-665K has them: one image, none, several turns."""
    records = []
    for number, record in enumerate(tiny.records):
        image, caption = record["image"], record["conversations"][1]["value"]
        texts = ["<image>\nWhat is it?", caption]
        if number % 3 == 1:
            texts += ["Which colour?", caption.split()[1]]
        if number % 4 == 3:
            image, texts = None, [f"Say {caption}.", caption]
        records.append(worlds.record(number, image, *texts))
    path = tmp_path_factory.mktemp("instructions") / "finetune.json"
    path.write_text(json.dumps(records))
    return path


@pytest.fixture
def stage2_flags(tiny, instructions) -> Callable[..., list[str]]:
    """Flags of a short stage 2; keyword arguments change or (None) drop one."""

    def flags(output_dir, **changes) -> list[str]:
        values = {
            "model_name_or_path": tiny.llm,
            "vision_tower": tiny.clip,
            "version": "v1",
            "data_path": instructions,
            "image_folder": tiny.images,
            "image_aspect_ratio": "pad",
            "output_dir": output_dir,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "cosine",
            "max_steps": 6,
            "logging_steps": 1,
            "save_strategy": "steps",
            "save_steps": 3,
            "dataloader_num_workers": 0,
            "report_to": "none",
        }
        return worlds.command_line(values | changes)

    return flags


@pytest.fixture
def train_here(stage1_flags, monkeypatch, tmp_path) -> Callable[..., Path]:
    """Run stage 1 in this process; returns the output folder."""

    def run(name: str, **changes) -> Path:
        monkeypatch.setattr(sys, "argv", ["train.py", *stage1_flags(tmp_path / name, **changes)])
        train()
        return tmp_path / name

    return run


@pytest.fixture
def tune_here(stage2_flags, monkeypatch, tmp_path) -> Callable[..., Path]:
    """Run stage 2 in this process; returns the output folder."""

    def run(name: str, **changes) -> Path:
        monkeypatch.setattr(sys, "argv", ["train.py", *stage2_flags(tmp_path / name, **changes)])
        train()
        return tmp_path / name

    return run


class Watched:
    """The model of the last run in this process, and its parameters before the first step."""

    def __init__(self) -> None:
        self.model = torch.nn.Module()
        self.before: dict[str, torch.Tensor] = {}

    def watch(self, make: Callable) -> Callable:
        """Return a maker of models whose result is kept."""

        def made(*args, **options):
            self.model = make(*args, **options)
            self.before = {n: p.detach().clone() for n, p in self.model.named_parameters()}
            return self.model

        return made

    def change(self) -> dict[str, float]:
        """Return how far each parameter has moved."""
        return {
            name: float((parameter - self.before[name]).detach().abs().max())
            for name, parameter in self.model.named_parameters()
        }

    def moved(self) -> set[str]:
        """Return the parameters that have moved."""
        return {name for name, change in self.change().items() if change}


@pytest.fixture
def watched(monkeypatch) -> Watched:
    """What the next runs train."""
    seen = Watched()
    for module, name in ((stage1, "Stage1Model"), (stage2, "Stage2Model")):
        monkeypatch.setattr(module, name, seen.watch(getattr(module, name)))
    return seen


def _train_as_rank(flags: list[str]) -> None:
    """Train in a forked process, which must not take its parent's runs for its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()
    sys.argv = ["train_mem.py", *flags]
    train()


@pytest.fixture
def run_ranks(fork, repo) -> Callable[..., str]:
    """Train as forked ranks under DeepSpeed; returns what the first one printed."""

    def run(flags: list[str], config: str = "zero2", count: int = 2, status: int = 0) -> str:
        file = config if config.endswith(".json") else str(repo / f"zero_configs/{config}.json")
        ranks = fork(_train_as_rank, ["--deepspeed", file, *flags], count=count)
        said = [rank.log.read_text() for rank in ranks]
        assert {rank.process.exitcode for rank in ranks} == {status}, "\n".join(said)[-4000:]
        return said[0]

    return run


@pytest.fixture
def launch(repo) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start `train_mem.py` as two ranks under the launcher, as users do; return the Popen."""
    started = []

    def start(flags: list[str], config: str = "zero2", **options) -> subprocess.Popen:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        command = [sys.executable, "-m", "llava_sea.train.launch", "--num_gpus", "2"]
        command += ["--master_port", port, str(repo / "llava_sea/train/train_mem.py")]
        command += ["--deepspeed", str(repo / f"zero_configs/{config}.json")]
        process = subprocess.Popen(
            [*command, *flags],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PATH": path, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
