"""Whole runs of stage 2 in this process: what is trained and written, resuming, failing early."""

import errno
import json
import shutil
import sys

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

from llava_sea.errors import UserError
from llava_sea.train.train import train


@pytest.fixture
def tune_here(stage2_flags, monkeypatch, tmp_path):
    """Run stage 2 in this process; returns the output folder."""

    def run(name, **changes):
        output_dir = tmp_path / name
        monkeypatch.setattr(sys, "argv", ["train.py", *stage2_flags(output_dir, **changes)])
        train()
        return output_dir

    return run


@pytest.fixture
def spy(monkeypatch):
    """Keep the run's model and its parameters before the first step."""
    from llava_sea.train import stage2 as module

    seen = {}
    original = module.Stage2Model

    def watch(llava):
        seen["model"] = model = original(llava)
        seen["before"] = {n: p.detach().clone() for n, p in model.named_parameters()}
        return model

    monkeypatch.setattr(module, "Stage2Model", watch)

    def moved() -> set[str]:
        now = dict(seen["model"].named_parameters())
        return {n for n, before in seen["before"].items() if not torch.equal(now[n], before)}

    seen["moved"] = moved
    return seen


def tensors(folder):
    return safetensors.torch.load_file(folder / "model.safetensors")


def test_what_a_run_leaves(tune_here, read_metrics, tiny):
    output_dir = tune_here("run", group_by_modality_length=True)
    rows = read_metrics(output_dir)
    assert rows[6]["lm_loss"] < rows[1]["lm_loss"]
    model, report = LlavaForConditionalGeneration.from_pretrained(
        output_dir, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    config = json.loads((output_dir / "config.json").read_text())
    assert config["model_type"] == "llava" and config["conversation_template"] == "v1"
    assert config["image_aspect_ratio"] == "pad"
    assert {"config.json", "model.safetensors"} <= {
        p.name for p in (output_dir / "checkpoint-3").iterdir()
    }
    base = AutoModelForCausalLM.from_pretrained(tiny.llm)
    rows_before = base.get_input_embeddings().weight
    after = model.get_input_embeddings().weight[: len(rows_before)]
    assert not torch.equal(after, rows_before)


def parts_of(names):
    return {n.split(".")[2] if n.startswith("llava.model.") else n.split(".")[1] for n in names}


ALL_BUT_TOWER = {"language_model", "multi_modal_projector", "lm_head"}


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ({}, ALL_BUT_TOWER),
        ({"freeze_mm_mlp_adapter": True}, {"language_model", "lm_head"}),
        ({"freeze_backbone": True}, {"multi_modal_projector"}),
        ({"unfreeze_mm_vision_tower": True}, ALL_BUT_TOWER | {"vision_tower"}),
    ],
    ids=lambda value: "+".join(value) or "default" if isinstance(value, dict) else "",
)
def test_what_moves(tune_here, spy, flags, parts):
    tune_here("run", max_steps=2, save_strategy="no", **flags)
    moved = spy["moved"]()
    assert parts_of(moved) == parts
    trainable = {n for n, p in spy["model"].named_parameters() if p.requires_grad}
    # every parameter that is called trainable gets a gradient (a row of the table may not)
    assert trainable - moved == set()
    if "unfreeze_mm_vision_tower" in flags:
        assert not any(".layers.2." in n or "post_layernorm" in n for n in moved)


def test_learning_rates_have_groups_of_their_own(tune_here, spy, capsys):
    shared = {"max_steps": 1, "save_strategy": "no", "learning_rate": 1e-9, "warmup_ratio": 0}
    tune_here("projector", mm_projector_lr=1e-2, **shared)
    change = {
        n: float((p - spy["before"][n]).abs().max()) for n, p in spy["model"].named_parameters()
    }
    assert change["llava.model.multi_modal_projector.linear_1.weight"] > 1e-3
    assert change["llava.lm_head.weight"] < 1e-6
    tune_here(
        "tower", unfreeze_mm_vision_tower=True, mm_vision_tower_lr=1e-2, weight_decay=0.1, **shared
    )
    change = {
        n: float((p - spy["before"][n]).abs().max()) for n, p in spy["model"].named_parameters()
    }
    assert change["llava.model.vision_tower.encoder.layers.0.mlp.fc1.weight"] > 1e-3
    assert change["llava.model.multi_modal_projector.linear_1.weight"] < 1e-6
    lines = [line for line in capsys.readouterr().out.splitlines() if " parameters at " in line]
    rates = {line.split(" at ")[1].split(",")[0] for line in lines}
    assert rates == {"1e-09", "0.01"}


def test_a_resumed_run_equals_an_unbroken_one(tune_here):
    whole = tune_here("whole")
    tune_here("part")
    part = whole.parent / "part"
    for path in part.iterdir():  # as if it had been ended after step 3
        if path.name not in ("checkpoint-3", "run.json", "metrics.jsonl"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = tune_here("part")
    stored = tensors(again)
    for name, tensor in tensors(whole).items():
        torch.testing.assert_close(stored[name], tensor, atol=0, rtol=0)
    # a run that was ended right after its last checkpoint gets its results now
    (again / "model.safetensors").unlink()
    tune_here("part")
    assert tensors(again).keys() == stored.keys()


def test_a_run_goes_on_with_mended_data_where_its_checkpoint_is_named(
    tune_here, read_metrics, instructions, tmp_path
):
    data = tmp_path / "data.json"
    data.write_text(instructions.read_text())
    part = tune_here("part", data_path=data)
    for path in part.iterdir():  # as if it had been ended after step 3
        if path.name not in ("checkpoint-3", "run.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    records = json.loads(data.read_text())
    records[0]["conversations"][1]["value"] = "mended"
    data.write_text(json.dumps(records))
    with pytest.raises(UserError, match=r"--resume_from_checkpoint .*checkpoint-3"):
        tune_here("part", data_path=data)
    tune_here("part", data_path=data, resume_from_checkpoint=part / "checkpoint-3")
    assert set(read_metrics(part)) == {4, 5, 6}


def test_a_llava_is_tuned_further(tune_here, read_metrics):
    first = tune_here("first", max_steps=3)
    further = tune_here("further", max_steps=2, model_name_or_path=first, vision_tower=None)
    assert tensors(further).keys() == tensors(first).keys()
    for name, tensor in tensors(first).items():
        assert tensors(further)[name].shape == tensor.shape  # the vocabulary does not grow again
    with pytest.raises(UserError, match="is a LLaVA with a projector of its own"):
        tune_here("both", model_name_or_path=first, pretrain_mm_mlp_adapter="x.bin")
    with pytest.raises(UserError, match=r"--mm_vision_select_layer -1: .* by layer -2"):
        tune_here("layer", model_name_or_path=first, mm_vision_select_layer=-1)


def test_bad_records_are_counted_before_anything_is_built(
    tune_here, monkeypatch, instructions, tmp_path
):
    from llava_sea.train import stage2 as module

    monkeypatch.setattr(module, "build_llava", lambda *a, **k: 1 / 0)
    records = json.loads(instructions.read_text())
    records[2]["conversations"][1]["value"] = ""
    records[5]["conversations"].insert(0, {"from": "human", "value": "Twice?"})
    data = tmp_path / "bad.json"
    data.write_text(json.dumps(records))
    message = rf"{data}: record 2 \(id '2'\): no answer.* 2 of 24 records .*also record 5"
    with pytest.raises(UserError, match=message):
        tune_here("run", data_path=data)


def test_a_tokenizer_with_more_than_the_table(
    tune_here, grown_llm, instructions, read_metrics, tmp_path
):
    records = json.loads(instructions.read_text())
    records[2]["conversations"][1]["value"] += "<extra>"
    data = tmp_path / "bad.json"
    data.write_text(json.dumps(records))
    message = rf"{data}: record 2 \(id '2'\): holds '<extra>'.* 1 of 24 records"
    with pytest.raises(UserError, match=message):
        tune_here("bad", model_name_or_path=grown_llm, data_path=data)
    # Its [PAD] is no padding either: records of a batch differ in length here.
    output_dir = tune_here("good", model_name_or_path=grown_llm, max_steps=1)
    assert read_metrics(output_dir)


def test_too_little_room_for_a_checkpoint_is_found_before_step_one(tune_here, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=500_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="the results need"):
        tune_here("run")
    tune_here("without", save_strategy="no", max_steps=1)


def test_a_failed_save_leaves_the_former_checkpoint_whole(tune_here, monkeypatch, tmp_path):
    from llava_sea.train import checkpoint, saving

    real = saving.write_llava

    def full(folder, *args, **options):
        if folder.name == "checkpoint-6":
            raise OSError(errno.ENOSPC, "No space left on device", str(folder))
        real(folder, *args, **options)

    monkeypatch.setattr(saving, "write_llava", full)
    with pytest.raises(UserError, match=r"checkpoint-6: No space left.*Earlier checkpoints"):
        tune_here("run", save_total_limit=1)
    (former,) = checkpoint.complete_checkpoints(tmp_path / "run")
    assert former.name == "checkpoint-3"
    LlavaForConditionalGeneration.from_pretrained(former)


def test_a_finished_runs_damaged_weights_are_put_right(tune_here, capsys):
    output_dir = tune_here("run", max_steps=2)
    before = {p: p.read_bytes() for p in output_dir.rglob("*") if p.is_file()}
    assert tune_here("run", max_steps=2) == output_dir
    assert {p: p.read_bytes() for p in output_dir.rglob("*") if p.is_file()} == before
    weights = output_dir / "model.safetensors"
    weights.write_bytes(before[weights][:-7])
    (output_dir / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"st')  # as a full disk leaves it
    tune_here("run", max_steps=2)
    assert weights.read_bytes() == before[weights]
    said = capsys.readouterr().out
    assert f"{weights} is not as the run left it" in said
    assert "metrics.jsonl, line 2: cannot be read" in said


def test_vicunas_generation_config_is_made_sound(tune_here, tiny, tmp_path):
    llm = tmp_path / "llm"
    shutil.copytree(tiny.llm, llm)
    broken = {"temperature": 0.9, "top_p": 0.6, "bos_token_id": 1, "eos_token_id": 2}
    (llm / "generation_config.json").write_text(json.dumps(broken))
    output_dir = tune_here("run", model_name_or_path=llm, max_steps=1)
    written = json.loads((output_dir / "generation_config.json").read_text())
    assert written["do_sample"] is True and written["temperature"] == 0.9


def test_gradient_checkpointing_changes_nothing(tune_here):
    plain = tensors(tune_here("plain", max_steps=2, unfreeze_mm_vision_tower=True))
    saved = tensors(
        tune_here("saved", max_steps=2, unfreeze_mm_vision_tower=True, gradient_checkpointing=True)
    )
    for name, tensor in plain.items():
        torch.testing.assert_close(saved[name], tensor, atol=1e-5, rtol=1e-4)


def test_a_frozen_llm_in_bfloat16_does_not_round_the_projector(tune_here):
    shared = {"bf16": True, "use_cpu": True, "freeze_backbone": True}
    whole = tensors(tune_here("whole", **shared))
    part = tune_here("part", **shared)
    for path in part.iterdir():  # as if it had been ended after step 3
        if path.name not in ("checkpoint-3", "run.json", "metrics.jsonl"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = tensors(tune_here("part", **shared))
    name = "multi_modal_projector.linear_1.weight"
    assert not torch.equal(whole[name], whole[name].bfloat16().float())
    for key, tensor in whole.items():
        torch.testing.assert_close(again[key], tensor, atol=0, rtol=0)


def test_a_run_that_diverges_is_stopped(tune_here, tmp_path):
    tune_here("run", max_steps=2, save_steps=1)
    with pytest.raises(UserError, match=r"not finite|loss is .*learning_rate"):
        tune_here("burst", learning_rate=1e30, save_steps=1, save_total_limit=1, weight_decay=0.5)
    assert not (tmp_path / "burst" / "model.safetensors").exists()


def test_the_last_good_checkpoint_is_kept_and_named(tune_here, tmp_path, monkeypatch):
    from llava_sea.train.trainer import LLaVATrainer

    original = LLaVATrainer.training_step

    def poisoned(self, model, *args, **options):
        if self.state.global_step == 2:
            next(p for p in self.wrapped.parameters() if p.requires_grad).data.fill_(torch.nan)
        return original(self, model, *args, **options)

    monkeypatch.setattr(LLaVATrainer, "training_step", poisoned)
    with pytest.raises(UserError, match=r"checkpoint-2 is the last good checkpoint"):
        tune_here("run", save_steps=1, save_total_limit=1, logging_steps=100)
    assert (tmp_path / "run" / "checkpoint-2" / "model.safetensors").is_file()
    assert not (tmp_path / "run" / "model.safetensors").exists()
