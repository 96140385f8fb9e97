"""Starting stage 1 in its own processes, as users do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _command_line(values) -> list[str]:
    return [
        token
        for name, value in values.items()
        if value is not None
        for token in (f"--{name}", str(value))
    ]


@pytest.fixture
def stage1_flags(tiny, tiny_labels):
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
        } | changes
        return _command_line(values)

    return flags


@pytest.fixture(scope="session")
def instructions(tiny, tmp_path_factory) -> Path:
    """Conversations as LLaVA-665K has them: one picture, none, several turns."""
    records = []
    for number, record in enumerate(tiny.records):
        caption = record["conversations"][1]["value"]
        turns = [("human", "<image>\nWhat is it?"), ("gpt", caption)]
        if number % 3 == 1:
            turns += [("human", "Which colour?"), ("gpt", caption.split()[1])]
        made = {"id": number, "image": record["image"]}
        if number % 4 == 3:  # text only
            turns, made = [("human", f"Say {caption}."), ("gpt", caption)], {"id": number}
        made["conversations"] = [{"from": role, "value": text} for role, text in turns]
        records.append(made)
    path = tmp_path_factory.mktemp("instructions") / "finetune.json"
    path.write_text(json.dumps(records))
    return path


@pytest.fixture
def stage2_flags(tiny, instructions):
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
        } | changes
        return _command_line(values)

    return flags


@pytest.fixture
def launch(repo):
    """Start `train_mem.py` under deepspeed (processes > 0) or plain python; return the Popen."""
    started = []

    def start(flags, processes=0, config="zero2", **options) -> subprocess.Popen:
        env = os.environ | {
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
        }
        script = str(repo / "llava_sea/train/train_mem.py")
        if processes:
            command = [sys.executable, "-m", "llava_sea.train.launch"]
            command += ["--num_gpus", str(processes), "--master_port", str(_free_port()), script]
            command += ["--deepspeed", str(repo / f"zero_configs/{config}.json")]
        else:
            command = [sys.executable, script]
        process = subprocess.Popen(
            [*command, *flags],
            env=env,
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


@pytest.fixture
def run_stage1(launch):
    """Run to the end; return the output. Fails the test on another status than `expect`."""

    def run(flags, processes=0, config="zero2", expect=0) -> str:
        process = launch(flags, processes, config)
        output, _ = process.communicate(timeout=900)
        assert process.returncode == expect, output[-4000:]
        return output

    return run


@pytest.fixture
def read_metrics():
    """Read metrics.jsonl as {step: {name: value}}, training and held-out values together."""

    def read(output_dir) -> dict[int, dict[str, float]]:
        steps: dict[int, dict[str, float]] = {}
        for line in (Path(output_dir) / "metrics.jsonl").read_text().splitlines():
            row = json.loads(line)
            steps.setdefault(row["step"], {}).update(row)
        return steps

    return read


@pytest.fixture
def embedding_rows_length(tiny) -> float:
    """The mean length of the embedding rows of the words' tokens, each token once."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.llm)
    ids = {t for w in tiny.word_list for t in tokenizer.encode(w, add_special_tokens=False)}
    table = AutoModelForCausalLM.from_pretrained(tiny.llm).get_input_embeddings().weight
    return table[sorted(ids)].norm(dim=-1).mean().item()


@pytest.fixture
def train_here(stage1_flags, monkeypatch, tmp_path):
    """Run stage 1 in this process; returns the output folder."""
    from llava_sea.train.train import train

    def run(name, **changes):
        output_dir = tmp_path / name
        monkeypatch.setattr(sys, "argv", ["train.py", *stage1_flags(output_dir, **changes)])
        train()
        return output_dir

    return run
