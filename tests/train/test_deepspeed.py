"""Two processes under DeepSpeed: the same curve as one, resuming, and every way of being ended."""

import os
import re
import shutil
import signal
import time

import psutil
import pytest
import torch

from llava_sea.model.projector_io import read_projector
from llava_sea.train.checkpoint import complete_checkpoints

pytestmark = pytest.mark.deepspeed
SLOW = pytest.mark.slow

# 24 records, 2 ranks, batches of 2: an epoch has 6 steps, so 9 steps end in the second epoch.
LONG = {
    "per_device_train_batch_size": 2,
    "max_steps": 9,
    "save_steps": 4,
    "dataloader_num_workers": 1,
    "dataloader_persistent_workers": True,
    "sea_eval_data": None,
}


def curve(metrics):
    names = ("loss", "lm_loss", "sea_loss", "temperature", "sea_pairs", "grad_norm")
    return {s: [row[n] for n in names] for s, row in metrics.items() if "loss" in row}


def same_weights(one, other, atol):
    state = read_projector(other / "mm_projector.bin")
    for name, tensor in read_projector(one / "mm_projector.bin").items():
        torch.testing.assert_close(state[name], tensor, atol=atol, rtol=0)


def wait_for(condition, seconds=900.0):
    """Poll until `condition()` is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


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


def family(process):
    return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]


@pytest.mark.parametrize("config", ["zero2", "zero3"])
def test_two_ranks_with_global_negatives_equal_one(
    run_stage1, stage1_flags, read_metrics, tmp_path, config, monkeypatch
):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "compiled"))
    shared = {"sea_negatives": "global", "max_steps": 5, "save_strategy": "no"}
    one, two = tmp_path / "one", tmp_path / "two"
    run_stage1(stage1_flags(one, per_device_train_batch_size=8, **shared))
    run_stage1(stage1_flags(two, per_device_train_batch_size=4, **shared), 2, config)
    assert not (tmp_path / "compiled").exists()  # a first run needs no compiler
    expected, found = read_metrics(one), read_metrics(two)
    for step, values in curve(expected).items():
        assert curve(found)[step] == pytest.approx(values, rel=2e-4), step
    for step in (0, 4, 5):
        for name, value in expected[step].items():
            if name.startswith("eval_"):
                assert found[step][name] == pytest.approx(value, rel=1e-3), (step, name)
    same_weights(one, two, atol=1e-4)


@SLOW
def test_bfloat16_under_deepspeed(run_stage1, stage1_flags, read_metrics, tmp_path):
    shared = {"per_device_train_batch_size": 4, "save_steps": 5, "max_steps": 5}
    low, exact = tmp_path / "low", tmp_path / "exact"
    run_stage1(stage1_flags(low, bf16=True, use_cpu=True, **shared), 2, "zero3")
    run_stage1(stage1_flags(exact, **shared), 2, "zero2")
    assert read_projector(low / "mm_projector.bin")["linear_1.weight"].dtype == torch.bfloat16
    for step in range(1, 6):
        for name in ("lm_loss", "sea_loss", "temperature"):
            assert read_metrics(low)[step][name] == pytest.approx(
                read_metrics(exact)[step][name], rel=0.01
            )


def test_lambda_means_the_same_under_accumulation_and_on_two_ranks(
    run_stage1, stage1_flags, read_metrics, tmp_path
):
    # The same four micro-batches a step, accumulated on one process or two by two on two ranks.
    shared = {"per_device_train_batch_size": 2, "max_steps": 5, "save_strategy": "no"}
    one, two = tmp_path / "one", tmp_path / "two"
    run_stage1(stage1_flags(one, gradient_accumulation_steps=4, **shared))
    run_stage1(stage1_flags(two, gradient_accumulation_steps=2, **shared), 2)
    for step, values in curve(read_metrics(one)).items():
        assert curve(read_metrics(two))[step] == pytest.approx(values, rel=2e-4), step
    same_weights(one, two, atol=1e-4)


@pytest.mark.parametrize("config", ["zero2", pytest.param("zero3", marks=SLOW)])
def test_killed_and_resumed_equals_unbroken(
    launch, run_stage1, stage1_flags, read_metrics, tmp_path, config
):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    run_stage1(stage1_flags(unbroken, **LONG), 2, config)

    process = launch(stage1_flags(broken, **LONG), 2, config)
    wait_for(lambda: (broken / "checkpoint-8" / "checksums.json").exists())
    everyone = family(process)
    ranks_of(process)[1].kill()
    output, _ = process.communicate(timeout=900)
    assert process.returncode not in (0, None), output[-3000:]
    _, alive = psutil.wait_procs(everyone, timeout=600)
    assert not alive, alive

    # A checkpoint whose saving was cut off is passed over.
    cut_off = broken / "checkpoint-9"
    shutil.rmtree(cut_off, ignore_errors=True)
    shutil.copytree(broken / "checkpoint-8", cut_off)
    (cut_off / "checksums.json").unlink()
    output = run_stage1(stage1_flags(broken, **LONG), 2, config)
    assert "checkpoint-9 was cut off" in output
    assert re.search(r"resuming from .*checkpoint-8", output)
    for step, values in curve(read_metrics(unbroken)).items():
        assert curve(read_metrics(broken))[step] == values, step
    same_weights(unbroken, broken, atol=0)


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
    process = launch(flags, 2, config, start_new_session=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 3)
    everyone = family(process)
    if target == "rank":
        ranks_of(process)[1].send_signal(signal.SIGTERM)
    elif target == "group":  # as a batch system does: everything at once
        for session in {os.getpgid(p.pid) for p in everyone}:
            os.killpg(session, signal.SIGTERM)
    else:
        process.terminate()
    output, _ = process.communicate(timeout=900)
    assert process.returncode not in (0, None)
    _, alive = psutil.wait_procs(everyone, timeout=600)
    assert not alive, alive
    (checkpoint,) = complete_checkpoints(tmp_path / "run")
    step = int(checkpoint.name.split("-")[1])
    assert step >= 3, output[-3000:]
    assert f"stopped after step {step}" in output


@SLOW
def test_a_rank_that_dies_alone_ends_the_run_with_a_message(launch, stage1_flags, tmp_path):
    process = launch(stage1_flags(tmp_path / "run", **LONG | {"max_steps": 4000}), 2)
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 3)
    everyone = family(process)
    ranks_of(process)[0].kill()
    output, _ = process.communicate(timeout=900)
    assert process.returncode not in (0, None)
    assert "a process of this run died" in output and "resumes from the last complete" in output
    assert not psutil.wait_procs(everyone, timeout=600)[1]


def test_the_last_line_is_what_a_rank_said_was_wrong(run_stage1, stage1_flags, tiny, tmp_path):
    shutil.copytree(tiny.images, images := tmp_path / "images")
    (images / "007.png").write_bytes(b"no picture")
    flags = stage1_flags(tmp_path / "run", image_folder=images, sea_eval_data=None)
    last = run_stage1(flags, 2, expect=2).splitlines()[-1]
    assert "error: " in last and "record 7 (id 'rec-7')" in last
