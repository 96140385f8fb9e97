"""Ranks under DeepSpeed: the same curve as one process, resuming, and every way of being ended."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import psutil
import pytest
import safetensors.torch
import torch

from llava_sea.data.sampler import EpochBatchSampler
from llava_sea.model.projector_io import read_projector
from llava_sea.train.checkpoint import complete_checkpoints
from tests.worlds import curve, interrupt, read_metrics, record

pytestmark = pytest.mark.deepspeed
SLOW = pytest.mark.slow
NO_COMPILER = pytest.mark.skipif(not shutil.which("g++"), reason="DeepSpeed compiles its Adam")


def same_curve(one, other, rel=2e-4, **options):
    expected, found = curve(one), curve(other)
    assert found.keys() == expected.keys()
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, rel=rel, **options), step


def same_projector(one, other, atol):
    state = read_projector(other / "mm_projector.bin")
    for name, tensor in read_projector(one / "mm_projector.bin").items():
        torch.testing.assert_close(state[name], tensor, atol=atol, rtol=0)


# --- several ranks compute what one does ----------------------------------------------------------


@pytest.mark.parametrize("config", ["zero2", "zero3"])
def test_two_ranks_with_global_negatives_equal_one(
    train_here, run_ranks, stage1_flags, tmp_path, config, monkeypatch
):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "compiled"))
    shared = {"sea_negatives": "global", "max_steps": 5, "save_strategy": "no"}
    one, two = train_here("one", per_device_train_batch_size=8, **shared), tmp_path / "two"
    run_ranks(stage1_flags(two, per_device_train_batch_size=4, **shared), config)
    assert not (tmp_path / "compiled").exists()  # a first run needs no compiler
    same_curve(one, two)
    for step in (0, 4, 5):
        for name, value in read_metrics(one)[step].items():
            if name.startswith("eval_"):
                found = read_metrics(two)[step][name]
                assert found == pytest.approx(value, rel=1e-3), (step, name)
    same_projector(one, two, atol=1e-4)


def test_lambda_means_the_same_under_accumulation_and_on_two_ranks(
    train_here, run_ranks, stage1_flags, tmp_path
):
    # The same four micro-batches a step, accumulated on one process or two by two on two ranks.
    shared = {"per_device_train_batch_size": 2, "max_steps": 5, "save_strategy": "no"}
    one, two = train_here("one", gradient_accumulation_steps=4, **shared), tmp_path / "two"
    run_ranks(stage1_flags(two, gradient_accumulation_steps=2, **shared))
    same_curve(one, two)
    same_projector(one, two, atol=1e-4)


@SLOW
def test_two_ranks_with_the_length_loss_equal_one(train_here, run_ranks, stage1_flags, tmp_path):
    shared = {"sea_negatives": "global", "max_steps": 4, "save_strategy": "no"}
    shared |= {"sea_eval_data": None, "sea_length_weight": 1.0}
    one, two = train_here("one", per_device_train_batch_size=8, **shared), tmp_path / "two"
    run_ranks(stage1_flags(two, per_device_train_batch_size=4, **shared), "zero3")
    same_curve(one, two)


@SLOW
def test_bfloat16(run_ranks, stage1_flags, tmp_path):
    shared = {"per_device_train_batch_size": 4, "save_steps": 5, "max_steps": 5}
    low, exact = tmp_path / "low", tmp_path / "exact"
    run_ranks(stage1_flags(low, bf16=True, use_cpu=True, **shared), "zero3")
    run_ranks(stage1_flags(exact, **shared))
    assert read_projector(low / "mm_projector.bin")["linear_1.weight"].dtype == torch.bfloat16
    for step in range(1, 6):
        for name in ("lm_loss", "sea_loss", "temperature"):
            expected = pytest.approx(read_metrics(exact)[step][name], rel=0.01)
            assert read_metrics(low)[step][name] == expected


STAGE_2 = {
    "full": {"unfreeze_mm_vision_tower": True},
    "lora": {"lora_enable": True, "lora_r": 4, "lora_dropout": 0.0},
    "packed": {"unfreeze_mm_vision_tower": True, "pack_sequences": True},
}


@pytest.mark.parametrize("kind", ["full", "lora", pytest.param("packed", marks=SLOW)])
def test_text_on_one_rank_and_images_on_the_other(
    tune_here, run_ranks, stage2_flags, tiny, tmp_path, kind
):
    # Records in an order that gives rank 0 text alone and rank 1 images alone, all steps.
    sampler = EpochBatchSampler(16, 2, rank=0, world_size=2, seed=42, epoch_of=lambda: 0)
    text_only = {index for batch in sampler for index, _ in batch}
    records = []
    for number, captioned in enumerate(tiny.records[:16]):
        caption = captioned["conversations"][1]["value"]
        texts = "<image>\nWhat is it?", caption
        if number in text_only:
            texts = f"Say {caption}.", caption
        records.append(record(number, None if number in text_only else captioned["image"], *texts))
    data = tmp_path / "mixed.json"
    data.write_text(json.dumps(records))
    shared = {"data_path": data, "max_steps": 4, "save_strategy": "no", "learning_rate": 3e-3}
    shared |= STAGE_2[kind]
    two = tmp_path / "two"
    run_ranks(stage2_flags(two, per_device_train_batch_size=2, **shared), "zero3")
    one = tune_here("one", per_device_train_batch_size=4, **shared | {"pack_sequences": None})
    assert len(curve(two)) == 4
    same_curve(one, two)


# --- resuming -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lora", "config"),
    [
        pytest.param(False, "zero3", id="full"),
        pytest.param(True, "zero3", id="lora", marks=SLOW),
        pytest.param(False, "zero3_offload", id="offload", marks=[SLOW, NO_COMPILER]),
    ],
)
def test_stage_2_resumed_equals_unbroken(run_ranks, stage2_flags, tmp_path, lora, config):
    run = tmp_path / "run"
    shared = {"per_device_train_batch_size": 2, "group_by_modality_length": True}
    shared |= {"mm_projector_lr": 2e-3}  # a group of its own
    shared |= {"lora_enable": True, "lora_r": 4} if lora else {}
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    run_ranks(stage2_flags(run, **shared), config)
    whole, weights = curve(run), safetensors.torch.load_file(run / name)
    interrupt(run)
    assert "resuming from" in run_ranks(stage2_flags(run, **shared), config)
    assert curve(run) == whole
    for key, tensor in safetensors.torch.load_file(run / name).items():
        torch.testing.assert_close(tensor, weights[key], atol=0, rtol=0)


# 24 records, 2 ranks, batches of 2: an epoch has 6 steps, so 9 steps end in the second epoch.
LONG = {
    "per_device_train_batch_size": 2,
    "max_steps": 9,
    "save_steps": 4,
    "dataloader_num_workers": 1,
    "dataloader_persistent_workers": True,
    "sea_eval_data": None,
}


def wait_for(condition, seconds=900.0):
    """Poll until `condition()` is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def started(run):
    """Say whether a run has taken a few steps."""
    metrics = run / "metrics.jsonl"
    return lambda: metrics.exists() and metrics.read_text().count("\n") >= 3


def family(process):
    return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]


def ranks_of(process):
    """The processes that train: children of DeepSpeed's launch.py."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            parent = child.parent()
            if parent and "deepspeed.launcher.launch" in parent.cmdline():
                found.append(child)
        except psutil.Error:
            continue
    return found


def end_of(process: subprocess.Popen, everyone: list[psutil.Process]) -> str:
    """Wait until a run that was ended, and each of its processes, is gone; return its output."""
    output, _ = process.communicate(timeout=900)
    assert process.returncode not in (0, None), output[-3000:]
    _, alive = psutil.wait_procs(everyone, timeout=600)
    assert not alive, alive
    return output


@pytest.mark.parametrize("config", ["zero2", pytest.param("zero3", marks=SLOW)])
def test_killed_and_resumed_equals_unbroken(launch, run_ranks, stage1_flags, tmp_path, config):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    run_ranks(stage1_flags(unbroken, **LONG), config)

    process = launch(stage1_flags(broken, **LONG), config)
    wait_for(lambda: (broken / "checkpoint-8" / "checksums.json").exists())
    everyone = family(process)
    ranks_of(process)[1].kill()
    output = end_of(process, everyone)
    assert "a process of this run died" in output and "resumes from the last complete" in output

    # A checkpoint whose saving was cut off is passed over.
    cut_off = broken / "checkpoint-9"
    shutil.rmtree(cut_off, ignore_errors=True)
    shutil.copytree(broken / "checkpoint-8", cut_off)
    (cut_off / "checksums.json").unlink()
    output = run_ranks(stage1_flags(broken, **LONG), config)
    assert "checkpoint-9 was cut off" in output
    assert re.search(r"resuming from .*checkpoint-8", output)
    assert curve(broken) == curve(unbroken)
    same_projector(unbroken, broken, atol=0)


@pytest.mark.parametrize(
    ("target", "config"),
    [
        pytest.param("rank", "zero2", marks=SLOW),
        pytest.param("rank", "zero3", marks=SLOW),
        pytest.param("group", "zero2", marks=SLOW),
        ("command", "zero2"),
    ],
)
def test_sigterm_saves_a_checkpoint_and_leaves_nobody(
    launch, stage1_flags, tmp_path, target, config
):
    flags = stage1_flags(tmp_path / "run", **LONG | {"max_steps": 4000, "save_steps": 4000})
    process = launch(flags, config, start_new_session=True)
    wait_for(started(tmp_path / "run"))
    everyone = family(process)
    if target == "rank":
        ranks_of(process)[1].send_signal(signal.SIGTERM)
    elif target == "group":  # as a batch system does: everything at once
        for session in {os.getpgid(p.pid) for p in everyone}:
            os.killpg(session, signal.SIGTERM)
    else:
        process.terminate()
    output = end_of(process, everyone)
    (checkpoint,) = complete_checkpoints(tmp_path / "run")
    step = int(checkpoint.name.split("-")[1])
    assert step >= 3, output[-3000:]
    assert f"stopped after step {step}" in output


def test_the_last_line_is_what_a_rank_said_was_wrong(launch, stage1_flags, tiny, tmp_path):
    shutil.copytree(tiny.images, images := tmp_path / "images")
    (images / "007.png").write_bytes(b"no image")
    process = launch(stage1_flags(tmp_path / "run", image_folder=images, sea_eval_data=None))
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 2
    last = output.splitlines()[-1]
    assert "error: " in last and "record 7 (id 'rec-7')" in last
