"""Whole runs of stage 2 in this process: what is trained and written, resuming, failing early."""

import json
import shutil

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

from llava_sea.data import record_cache
from llava_sea.errors import UserError
from llava_sea.train import stage2
from llava_sea.train.trainer import LLaVATrainer
from tests.worlds import curve, edited, files_of, interrupt, read_metrics

ACCUMULATED = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
LORA = {"lora_enable": True, "lora_r": 4, "lora_alpha": 8, "mm_projector_lr": 1e-3}
PACKED = {"pack_sequences": True}
PROJECTOR = "llava.model.multi_modal_projector.linear_1.weight"


def tensors(folder):
    """What a run has trained, as its results hold it."""
    if not (folder / "adapter_model.safetensors").exists():
        return safetensors.torch.load_file(folder / "model.safetensors")
    others = torch.load(folder / "non_lora_trainables.bin", weights_only=True)
    return safetensors.torch.load_file(folder / "adapter_model.safetensors") | others


def same(one, other, atol=0.0, rtol=0.0):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, atol=atol, rtol=rtol)


def test_what_a_run_leaves(tune_here, tiny):
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
    files = {path.name for path in (output_dir / "checkpoint-3").iterdir()}
    assert {"config.json", "model.safetensors"} <= files
    before = AutoModelForCausalLM.from_pretrained(tiny.llm).get_input_embeddings().weight
    assert not torch.equal(model.get_input_embeddings().weight[: len(before)], before)


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
def test_what_moves(tune_here, watched, flags, parts):
    tune_here("run", max_steps=2, save_strategy="no", **flags)
    moved = watched.moved()
    assert parts_of(moved) == parts
    trainable = {n for n, p in watched.model.named_parameters() if p.requires_grad}
    # every parameter that is called trainable gets a gradient (a row of the table may not)
    assert trainable - moved == set()
    if "unfreeze_mm_vision_tower" in flags:
        assert not any(".layers.2." in n or "post_layernorm" in n for n in moved)


def test_learning_rates_have_groups_of_their_own(tune_here, watched, capsys):
    shared = {"max_steps": 1, "save_strategy": "no", "learning_rate": 1e-9, "warmup_ratio": 0}
    tune_here("projector", mm_projector_lr=1e-2, **shared)
    change = watched.change()
    assert change[PROJECTOR] > 1e-3 and change["llava.lm_head.weight"] < 1e-6
    rates = {"mm_vision_tower_lr": 1e-2, "weight_decay": 0.1}
    tune_here("tower", unfreeze_mm_vision_tower=True, **rates, **shared)
    change = watched.change()
    assert change["llava.model.vision_tower.encoder.layers.0.mlp.fc1.weight"] > 1e-3
    assert change[PROJECTOR] < 1e-6
    lines = [line for line in capsys.readouterr().out.splitlines() if " parameters at " in line]
    assert {line.split(" at ")[1].split(",")[0] for line in lines} == {"1e-09", "0.01"}


@pytest.mark.parametrize(
    "flags",
    [
        {},
        LORA,
        PACKED | ACCUMULATED | {"dataloader_num_workers": 1},
        PACKED | ACCUMULATED | {"group_by_modality_length": True},
        {"bf16": True, "use_cpu": True, "freeze_backbone": True},
    ],
    ids=["full", "lora", "packed", "packed-grouped", "bfloat16"],
)
def test_a_resumed_run_equals_an_unbroken_one(tune_here, flags):
    run = tune_here("run", **flags)
    whole = tensors(run)
    interrupt(run)
    same(tensors(tune_here("run", **flags)), whole)
    if "bf16" in flags:  # what is trained beside a frozen LLM in bfloat16 is not rounded
        projector = whole["multi_modal_projector.linear_1.weight"]
        assert not torch.equal(projector, projector.bfloat16().float())


def test_a_resumed_run_equals_an_unbroken_one_where_the_cache_was_made_again(
    tune_here, tmp_path, monkeypatch
):
    monkeypatch.setattr(record_cache, "SMALL_BYTES", 0)
    monkeypatch.setenv("LLAVA_SEA_CACHE", str(tmp_path / "cache"))
    run = tune_here("run", group_by_modality_length=True)
    whole = tensors(run)
    interrupt(run)
    assert list((tmp_path / "cache").rglob("*.arrow"))
    shutil.rmtree(tmp_path / "cache")
    same(tensors(tune_here("run", group_by_modality_length=True)), whole)


def test_a_run_is_resumed_with_fixed_data_where_its_checkpoint_is_named(
    tune_here, instructions, tmp_path
):
    def fix(records):
        records[0]["conversations"][1]["value"] = "fixed"

    data = edited(instructions, tmp_path / "data.json", lambda records: None)
    run = tune_here("run", data_path=data)
    interrupt(run, log=False)
    edited(data, data, fix)
    with pytest.raises(UserError, match=r"--resume_from_checkpoint .*checkpoint-3"):
        tune_here("run", data_path=data)
    tune_here("run", data_path=data, resume_from_checkpoint=run / "checkpoint-3")
    assert set(read_metrics(run)) == {4, 5, 6}


def test_a_llava_is_tuned_further(tune_here):
    first = tune_here("first", max_steps=3)
    further = tune_here("further", max_steps=2, model_name_or_path=first, vision_tower=None)
    shapes = {name: tensor.shape for name, tensor in tensors(first).items()}
    # the vocabulary does not grow again
    assert {name: tensor.shape for name, tensor in tensors(further).items()} == shapes
    with pytest.raises(UserError, match="is a LLaVA with a projector of its own"):
        tune_here("both", model_name_or_path=first, pretrain_mm_mlp_adapter="x.bin")
    with pytest.raises(UserError, match=r"--mm_vision_select_layer -1: .* by layer -2"):
        tune_here("layer", model_name_or_path=first, mm_vision_select_layer=-1)
    with pytest.raises(UserError, match=r"--mm_vision_select_feature cls_patch: .* reads patch"):
        tune_here("feature", model_name_or_path=first, mm_vision_select_feature="cls_patch")


def test_bad_records_are_counted_before_anything_is_built(
    tune_here, monkeypatch, instructions, tmp_path
):
    def spoil(records):
        records[2]["conversations"][1]["value"] = ""
        records[5]["conversations"].insert(0, {"from": "human", "value": "Twice?"})

    monkeypatch.setattr(stage2, "build_llava", lambda *a, **k: 1 / 0)
    data = edited(instructions, tmp_path / "bad.json", spoil)
    message = rf"{data}: record 2 \(id '2'\): no answer.* 2 of 24 records .*also record 5"
    with pytest.raises(UserError, match=message):
        tune_here("run", data_path=data)


def test_a_tokenizer_with_more_than_the_table(tune_here, grown_llm, instructions, tmp_path):
    def add(records):
        records[2]["conversations"][1]["value"] += "<extra>"

    data = edited(instructions, tmp_path / "bad.json", add)
    message = rf"{data}: record 2 \(id '2'\): holds '<extra>'.* 1 of 24 records"
    with pytest.raises(UserError, match=message):
        tune_here("bad", model_name_or_path=grown_llm, data_path=data)
    # Its [PAD] is no padding either: records of a batch differ in length here.
    assert read_metrics(tune_here("good", model_name_or_path=grown_llm, max_steps=1))


def test_too_little_room_for_a_checkpoint_is_found_before_step_one(tune_here, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=500_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="the results need"):
        tune_here("run")
    tune_here("without", save_strategy="no", max_steps=1)


def test_a_finished_runs_damaged_weights_are_put_right(tune_here, capsys):
    output_dir = tune_here("run", max_steps=2)
    before = files_of(output_dir)
    tune_here("run", max_steps=2)
    assert files_of(output_dir) == before
    weights = output_dir / "model.safetensors"
    log = b'{"step": 1}\n{"step": "2"}\n{"st'  # as a full disk leaves it
    (output_dir / "metrics.jsonl").write_bytes(log)
    for damage in (lambda: weights.write_bytes(before[weights][:-7]), weights.unlink):
        damage()
        tune_here("run", max_steps=2)
        assert weights.read_bytes() == before[weights]
    said = capsys.readouterr().out
    assert f"{weights} is not as the run left it" in said
    assert "line 2: cannot be read" in said and "metrics.jsonl, line 3: cannot be read" in said


def test_vicunas_generation_config_is_made_sound(tune_here, tiny, tmp_path):
    llm = tmp_path / "llm"
    shutil.copytree(tiny.llm, llm)
    broken = {"temperature": 0.9, "top_p": 0.6, "bos_token_id": 1, "eos_token_id": 2}
    (llm / "generation_config.json").write_text(json.dumps(broken))
    output_dir = tune_here("run", model_name_or_path=llm, max_steps=1)
    written = json.loads((output_dir / "generation_config.json").read_text())
    assert written["do_sample"] is True and written["temperature"] == 0.9


def test_gradient_checkpointing_changes_nothing(tune_here):
    shared = {"max_steps": 2, "unfreeze_mm_vision_tower": True}
    plain = tensors(tune_here("plain", **shared))
    same(tensors(tune_here("saved", gradient_checkpointing=True, **shared)), plain, 1e-5, 1e-4)


def test_a_run_that_diverges_is_stopped(tune_here, tmp_path):
    with pytest.raises(UserError, match=r"not finite|loss is .*learning_rate"):
        tune_here("burst", learning_rate=1e30, save_steps=1, save_total_limit=1, weight_decay=0.5)
    assert not (tmp_path / "burst" / "model.safetensors").exists()


def test_the_last_good_checkpoint_is_kept_and_named(tune_here, tmp_path, monkeypatch):
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


# --- packing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [
        {},
        LORA | {"lora_dropout": 0.0} | ACCUMULATED,
        ACCUMULATED | {"group_by_modality_length": True, "unfreeze_mm_vision_tower": True},
    ],
    ids=["full", "lora", "grouped"],
)
def test_the_packed_curve_is_that_of_padded_rows(tune_here, flags):
    shared = flags | {"max_steps": 4, "save_strategy": "no"}
    output_dir = tune_here("packed", **shared, **PACKED)
    packed, padded = curve(output_dir), curve(tune_here("padded", **shared))
    assert packed.keys() == padded.keys() == {1, 2, 3, 4}
    for number, row in padded.items():
        assert packed[number] == pytest.approx(row, rel=1e-4), number
    assert "per_sample" not in (output_dir / "config.json").read_text()  # no attention of ours


def test_a_run_is_packed_to_its_end_or_not_at_all(tune_here):
    for name, first, then in (("packed", PACKED, {}), ("padded", {}, PACKED)):
        interrupt(tune_here(name, **first))
        with pytest.raises(UserError, match="packed"):
            tune_here(name, **then)
