"""Stage 2 under ZeRO-3 with two processes: ranks of one modality each, resuming, LoRA."""

import json
import shutil

import pytest
import safetensors.torch
import torch

from llava_sea.data.sampler import EpochBatchSampler

pytestmark = pytest.mark.deepspeed


def curve(metrics):
    names = ("loss", "lm_loss", "grad_norm", "learning_rate")
    return {s: [row[n] for n in names] for s, row in metrics.items() if "loss" in row}


def one_modality_each(tiny, path):
    """Records in an order that gives rank 0 text alone and rank 1 pictures alone, all steps."""
    sampler = EpochBatchSampler(16, 2, rank=0, world_size=2, seed=42, epoch_of=lambda: 0)
    text_only = {index for batch in sampler for index, _ in batch}
    records = []
    for number in range(16):
        picture = tiny.records[number]
        caption = picture["conversations"][1]["value"]
        if number in text_only:
            turns, made = [("human", f"Say {caption}."), ("gpt", caption)], {"id": number}
        else:
            turns = [("human", "<image>\nWhat is it?"), ("gpt", caption)]
            made = {"id": number, "image": picture["image"]}
        made["conversations"] = [{"from": role, "value": text} for role, text in turns]
        records.append(made)
    path.write_text(json.dumps(records))
    return path


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_text_on_one_rank_and_pictures_on_the_other(
    run_stage1, stage2_flags, read_metrics, tiny, tmp_path, lora
):
    data = one_modality_each(tiny, tmp_path / "mixed.json")
    shared = {"data_path": data, "max_steps": 4, "save_strategy": "no", "learning_rate": 3e-3}
    if lora:
        shared |= {"lora_enable": True, "lora_r": 4, "lora_dropout": 0.0}
    else:
        shared |= {"unfreeze_mm_vision_tower": True}
    run_stage1(stage2_flags(tmp_path / "two", per_device_train_batch_size=2, **shared), 2, "zero3")
    run_stage1(stage2_flags(tmp_path / "one", per_device_train_batch_size=4, **shared))
    two, one = (curve(read_metrics(tmp_path / name)) for name in ("two", "one"))
    assert two.keys() == one.keys() == {1, 2, 3, 4}
    for step, row in one.items():
        assert two[step] == pytest.approx(row, rel=2e-4), step


OFFLOAD = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("g++"), reason="DeepSpeed compiles its Adam for CPUs"),
]


@pytest.mark.parametrize(
    "lora, config",
    [
        pytest.param(False, "zero3", id="full"),
        pytest.param(True, "zero3", id="lora", marks=pytest.mark.slow),
        pytest.param(False, "zero3_offload", id="offload", marks=OFFLOAD),
    ],
)
def test_resumed_under_zero3_equals_unbroken(
    run_stage1, stage2_flags, read_metrics, tmp_path, lora, config
):
    shared = {"per_device_train_batch_size": 2, "group_by_modality_length": True}
    shared |= {"mm_projector_lr": 2e-3}  # a group of its own
    if lora:
        shared |= {"lora_enable": True, "lora_r": 4}
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    run_stage1(stage2_flags(tmp_path / "run", **shared), 2, config)
    whole = curve(read_metrics(tmp_path / "run"))
    weights = safetensors.torch.load_file(tmp_path / "run" / name)
    for path in (tmp_path / "run").iterdir():  # as if it had been ended after step 3
        if path.name not in ("checkpoint-3", "run.json", "metrics.jsonl"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    output = run_stage1(stage2_flags(tmp_path / "run", **shared), 2, config)
    assert "resuming from" in output
    again = curve(read_metrics(tmp_path / "run"))
    assert again.keys() == whole.keys()
    for step, row in whole.items():
        assert again[step] == row, step
    for key, tensor in safetensors.torch.load_file(tmp_path / "run" / name).items():
        torch.testing.assert_close(tensor, weights[key], atol=0, rtol=0)
