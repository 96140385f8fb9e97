"""The two commands from end to end: the page on the miniature world, the GPU's check in small."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState

from llava_sea.errors import UserError
from llava_sea.preflight import checkpoints, run, steps
from llava_sea.preflight.__main__ import main
from llava_sea.preflight.memory import memory_of
from llava_sea.preflight.random_batches import Sizes
from llava_sea.train.parse import parse_args
from llava_sea.train.train import init_distributed
from tests import worlds

LINES = """flags 1, flags 2, flags 0, installed, miner, alignment loss, packing, tiny step,
models 1, models 2, data 1, data 2, LLM files, tokenizer, token ids, chat template, vision tower,
pad token, labels, steps 0, steps 1, memory 1, steps 2, memory 2, time, disk"""


def start(repo, script, *flags, **variables):
    env = os.environ | {"LLAVA_SEA_PYTHON": sys.executable, "PYTHONPATH": str(repo)} | variables
    command = ["bash", str(repo / "scripts" / script), *flags]
    return subprocess.run(command, capture_output=True, text=True, env=env)


@pytest.mark.slow
@pytest.mark.deepspeed
def test_the_page_of_the_miniature_world_is_all_green_within_two_minutes(repo, tmp_path):
    page, begun = tmp_path / "page.json", time.monotonic()
    done = start(repo, "preflight.sh", PAGE=str(page), LABELS=str(tmp_path / "labels"))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(page.read_text())
    print(done.stdout, time.monotonic() - begun)
    assert [line["name"] for line in found["lines"]] == " ".join(LINES.split()).split(", ")
    assert found["seconds"] < 240  # 120 on two quiet cores
    by_name = {line["name"]: line for line in found["lines"]}
    assert {line["state"] for line in found["lines"]} <= {"ok", "warning"}
    hours = by_name["time"]["details"]
    assert 0 < hours["warm start"] < hours["stage 1"]
    assert by_name["labels"]["details"]["quality"]["place"]["recall"] > 0
    assert "measured" in by_name["memory 2"]["found"]
    shown = (tmp_path / "page-labels.html").read_text()
    assert shown.count("data:image/png") == 4 and shown.endswith("</html>\n")
    assert done.stdout.splitlines()[-2].startswith("READY")


def test_the_page_gets_the_recipes_own_flags(repo):
    done = start(repo, "preflight.sh", "--sea_window", "3", DRY_RUN="1", RECIPE="vicuna-7b")
    assert done.returncode == 0, done.stderr
    first, _, second = done.stdout.partition(" --stage2 ")
    warm, _, first = first.partition(" --stage1 ")
    assert "--sea_align_only True" in warm.partition(" --warm_start ")[2]
    assert "--sea_align_only True" not in first and "--warm_start" not in first
    assert "--num_gpus 8" in warm and "--tune_mm_mlp_adapter True" in first
    assert "--version v1" in second and "zero3.json" in second
    done = start(repo, "preflight.sh", DRY_RUN="1", STAGES="2", TUNE="finetune_lora")
    assert "--stage1" not in done.stdout and "--lora_enable True" in done.stdout
    values = {"TUNE": "best", "STAGES": " ", "RECIPE": "nothing"}
    for name, value in (values | {"NUM_GPUS": "0", "SEA_PRESET": "x"}).items():
        done = start(repo, "preflight.sh", DRY_RUN="1", **{name: value})
        assert done.returncode == 2 and done.stderr.startswith(f"{name}={value}: ")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--num_gpus", "0"], "--num_gpus 0: must be a whole number from 1"),
        (["--gpu_memory", "nan"], "--gpu_memory nan: must be a number above 0"),
        (["--output", "FILE/page.json"], "--output .*file: it is a file, no folder"),
        (["--output", "NOTES"], "--output .*notes.json: holds something else"),
        (["--output", "FOLDER"], "--output .*: .*it is a folder.*PAGE="),
    ],
)
def test_what_would_fail_at_the_end_is_said_at_once(tmp_path, flags, said):
    (tmp_path / "file").write_text("")
    (tmp_path / "notes.json").write_text("mine")
    places = {
        "NOTES": str(tmp_path / "notes.json"),
        "FILE": str(tmp_path / "file"),
        "FOLDER": str(tmp_path),
    }
    for name, place in places.items():
        flags = [flag.replace(name, place) for flag in flags]
    with pytest.raises(UserError, match=said):
        main([*flags, "--stage1", "--version", "plain"])


def train_and_compare(flags: list[str], stage) -> None:
    """As one of two ranks, take the page's own steps; hold the engine's tensors against it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()
    init_distributed()
    arguments, made = parse_args(flags), []
    make = steps.make_trainer
    steps.make_trainer = lambda *given: made.append(make(*given)) or made[0]
    result = steps.take_steps(arguments, stage.longest, stage.mean)
    assert result["peak"] > 0 and len(result["seconds"]) == 3
    parts = memory_of(stage.config, stage.step())
    engine = made[0].model_wrapped
    masters = engine.optimizer.single_partition_of_fp32_groups
    state = [t for one in engine.optimizer.optimizer.state.values() for t in one.values()]
    held = sum(t.nbytes for t in (*masters, *state) if torch.is_tensor(t))
    weights = sum(p.nbytes for p in {*engine.module.parameters()})
    assert parts.weights == pytest.approx(weights, rel=0.02)
    assert parts.optimizer == pytest.approx(held, rel=0.1), (parts, held)


@pytest.mark.slow
@pytest.mark.deepspeed
@pytest.mark.parametrize("precision", ["--bf16", None])
def test_an_engines_weights_and_optimizer_are_as_computed(precision, tiny, repo, fork, tmp_path):
    values = {
        "deepspeed": repo / "zero_configs" / "zero2.json",
        "model_name_or_path": tiny.llm,
        "vision_tower": tiny.clip,
        "version": "v1",
        "data_path": tiny.data,
        "image_folder": tiny.images,
        "output_dir": tmp_path / "run",
        "per_device_train_batch_size": 2,
        "use_cpu": True,
    }
    given = [*worlds.command_line(values), *([precision, "True"] if precision else [])]
    changed = [word for k, v in steps.FLAGS.items() if v for word in (f"--{k}", v)]
    stage = run.read_stage(2, given, argparse.Namespace(num_gpus=2))
    stage.config = checkpoints.config_of(stage.arguments)
    stage.longest = stage.mean = Sizes(40, 12, 1)
    ranks = fork(train_and_compare, [*given, *changed], stage)
    assert {rank.process.exitcode for rank in ranks} == {0}, ranks[0].log.read_text()[-3000:]


@pytest.mark.slow
def test_the_check_of_a_gpu_says_that_there_is_none_and_runs_in_small(repo, tmp_path):
    none = start(repo, "gpu_check.sh", CUDA_VISIBLE_DEVICES="")
    assert none.returncode == 2 and len(none.stdout.splitlines()) == 1
    assert "no GPU" in none.stdout
    flags = ("--only", "pytest", "miner", "--results", str(tmp_path))
    done = start(repo, "gpu_check.sh", *flags, QUICK="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_on_a_gpu" in done.stdout
    assert json.loads((tmp_path / "miner-cpu.json").read_text())["rows"]
    told = done.stdout[done.stdout.rindex("gpu_check,") :]
    assert "miner-cpu.json (" in told and "pytest -m gpu    ok" in told
    out = start(repo, "gpu_check.sh", *flags, "--budget", "1", QUICK="1").stdout
    assert out.count("left out: no time") == 2
