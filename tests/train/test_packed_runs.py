"""Whole runs of stage 2 with --pack_sequences: the curve, resuming, ranks, refusals."""

import json
import shutil
import sys

import pytest
import safetensors.torch
import torch

from llava_sea.errors import UserError
from llava_sea.train.train import train

LORA = {"lora_enable": True, "lora_r": 4, "lora_dropout": 0.0}
ACCUMULATED = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}


@pytest.fixture
def pack_here(stage2_flags, monkeypatch, tmp_path):
    """Run stage 2 in this process, packed unless told otherwise; returns the output folder."""

    def run(name, **changes):
        output_dir = tmp_path / name
        flags = stage2_flags(output_dir, **{"pack_sequences": True} | changes)
        monkeypatch.setattr(sys, "argv", ["train.py", *flags])
        train()
        return output_dir

    return run


def curve(metrics):
    names = ("loss", "lm_loss", "grad_norm", "learning_rate")
    return {s: [row[n] for n in names] for s, row in metrics.items() if "loss" in row}


@pytest.mark.parametrize(
    "flags",
    [
        {},
        LORA | ACCUMULATED,
        ACCUMULATED | {"group_by_modality_length": True, "unfreeze_mm_vision_tower": True},
        ACCUMULATED | {"attn_implementation": "eager"},
    ],
    ids=["full", "lora", "grouped", "eager"],
)
def test_the_curve_is_that_of_padded_rows(pack_here, read_metrics, flags):
    shared = flags | {"max_steps": 4, "save_strategy": "no"}
    packed = curve(read_metrics(pack_here("packed", **shared)))
    padded = curve(read_metrics(pack_here("padded", **shared, pack_sequences=None)))
    assert packed.keys() == padded.keys() == {1, 2, 3, 4}
    for number, row in padded.items():
        assert packed[number] == pytest.approx(row, rel=1e-4), number


def interrupt(folder):
    """Leave what a run has that was ended after step 3, in the middle of its epoch."""
    for path in folder.iterdir():
        if path.name not in ("checkpoint-3", "run.json", "metrics.jsonl"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("group", [None, True], ids=["shuffled", "grouped"])
def test_a_resumed_run_equals_an_unbroken_one(pack_here, group):
    flags = ACCUMULATED | {"group_by_modality_length": group, "dataloader_num_workers": 1}
    run = pack_here("run", **flags)
    whole = safetensors.torch.load_file(run / "model.safetensors")
    interrupt(run)
    pack_here("run", **flags)
    for name, tensor in safetensors.torch.load_file(run / "model.safetensors").items():
        torch.testing.assert_close(tensor, whole[name], atol=0, rtol=0)


def test_a_run_is_packed_to_its_end_or_not_at_all(pack_here):
    interrupt(pack_here("run"))
    with pytest.raises(UserError, match="packed"):
        pack_here("run", pack_sequences=None)
    interrupt(pack_here("padded", pack_sequences=None))
    with pytest.raises(UserError, match="packed"):
        pack_here("padded")


def test_what_is_written_names_no_attention_of_ours(pack_here):
    output_dir = pack_here("run", max_steps=1, save_strategy="no")
    assert "per_sample" not in (output_dir / "config.json").read_text()


def test_stage_one_is_not_packed(stage1_flags, monkeypatch, tmp_path):
    flags = stage1_flags(tmp_path / "run", pack_sequences=True)
    monkeypatch.setattr(sys, "argv", ["train.py", *flags])
    with pytest.raises(UserError, match="--pack_sequences True belongs to stage 2"):
        train()


@pytest.mark.slow
@pytest.mark.deepspeed
def test_two_ranks_under_zero3_learn_what_one_does_from_padded_rows(
    run_stage1, stage2_flags, read_metrics, instructions, tmp_path
):
    # the first 5 of 6 records are text: of 4 in a step, some ranks have no picture
    records = json.loads(instructions.read_text())
    for number, record in enumerate(records):
        if number % 6 < 5:
            record.pop("image", None)
            for turn in record["conversations"]:
                turn["value"] = turn["value"].replace("<image>\n", "")
    data = tmp_path / "data.json"
    data.write_text(json.dumps(records))
    shared = {"data_path": data, "max_steps": 4, "save_strategy": "no", "learning_rate": 3e-3}
    shared |= {"unfreeze_mm_vision_tower": True}
    two = stage2_flags(
        tmp_path / "two", **shared, per_device_train_batch_size=2, pack_sequences=True
    )
    run_stage1(two, 2, "zero3")
    run_stage1(stage2_flags(tmp_path / "one", **shared, per_device_train_batch_size=4))
    found, expected = (curve(read_metrics(tmp_path / name)) for name in ("two", "one"))
    assert found.keys() == expected.keys() == {1, 2, 3, 4}
    for number, row in expected.items():
        assert found[number] == pytest.approx(row, rel=2e-4), number
