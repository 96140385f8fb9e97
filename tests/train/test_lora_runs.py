"""LoRA in stage 2: what is trained and written, who can read it, resuming."""

import json
import sys

import pytest
import safetensors.torch
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from llava_sea.errors import UserError
from llava_sea.model.load import load_llava
from llava_sea.train.train import train

LORA = {"lora_enable": True, "lora_r": 4, "lora_alpha": 8, "mm_projector_lr": 1e-3}


@pytest.fixture
def lora_here(stage2_flags, monkeypatch, tmp_path):
    """Run LoRA in this process; returns the output folder."""

    def run(name, **changes):
        output_dir = tmp_path / name
        flags = stage2_flags(output_dir, **LORA | changes)
        monkeypatch.setattr(sys, "argv", ["train.py", *flags])
        train()
        return output_dir

    return run


def tensors(folder):
    others = torch.load(folder / "non_lora_trainables.bin", weights_only=True)
    return safetensors.torch.load_file(folder / "adapter_model.safetensors") | others


def test_what_a_run_leaves(lora_here, tiny):
    output_dir = lora_here("run")
    names = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    adapters = safetensors.torch.load_file(output_dir / "adapter_model.safetensors")
    first = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    assert first in adapters and adapters[first].shape == (4, 32)
    assert len(adapters) == 2 * 2 * len(names)  # A and B, two layers
    others = torch.load(output_dir / "non_lora_trainables.bin", weights_only=True)
    prefix = "base_model.model.model.mm_projector"
    assert sorted(others) == [f"{prefix}.{n}.{kind}" for n in (0, 2) for kind in ("bias", "weight")]
    config = json.loads((output_dir / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny.llm)
    assert set(config["target_modules"]) == names and config["r"] == 4
    model = json.loads((output_dir / "config.json").read_text())
    assert model["mm_vision_tower"] == str(tiny.clip) and model["conversation_template"] == "v1"
    for step in (3, 6):
        checkpoint = output_dir / f"checkpoint-{step}"
        assert {"config.json", "adapter_config.json", "non_lora_trainables.bin"} <= {
            p.name for p in checkpoint.iterdir()
        }
    size = sum(p.stat().st_size for p in checkpoint.rglob("*") if p.is_file())
    assert size < 350_000  # nothing frozen: the LLM alone has 128,640 numbers


def test_peft_reads_the_adapters_onto_the_llm_alone(lora_here, tiny):
    output_dir = lora_here("run")
    llm = AutoModelForCausalLM.from_pretrained(tiny.llm)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        plain = llm(ids).logits
        wrapped = PeftModel.from_pretrained(llm, output_dir).eval()
        tuned = wrapped(ids).logits
    stored = tensors(output_dir)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            key = name.replace(".default.", ".")
            torch.testing.assert_close(parameter, stored[key], atol=0, rtol=0)
    assert (tuned - plain).abs().max() > 1e-3


@pytest.mark.parametrize("bias", ["none", "all", "lora_only"])
def test_only_adapters_projector_and_asked_biases_move(lora_here, monkeypatch, bias):
    from llava_sea.train import stage2 as module

    seen = {}
    original = module.Stage2Model

    def spy(llava):
        for layer in llava.model.language_model.layers:  # Qwen's kind: biases in attention
            base = layer.self_attn.q_proj.base_layer
            base.bias = torch.nn.Parameter(torch.zeros(32), requires_grad=bias != "none")
        seen["model"] = model = original(llava)
        seen["before"] = {n: p.detach().clone() for n, p in model.named_parameters()}
        return model

    monkeypatch.setattr(module, "Stage2Model", spy)
    output_dir = lora_here("run", lora_bias=bias, max_steps=2, save_strategy="no")
    moved = {
        name
        for name, parameter in seen["model"].named_parameters()
        if not torch.equal(parameter, seen["before"][name])
    }
    biases = {n for n in seen["before"] if n.endswith("q_proj.base_layer.bias")}
    assert len(biases) == 2
    assert (biases <= moved) == (bias != "none")
    assert all("lora_" in n or "multi_modal_projector" in n for n in moved - biases)
    assert any("lora_B" in n for n in moved)
    key = "base_model.model.model.layers.0.self_attn.q_proj.bias"
    assert (key in tensors(output_dir)) == (bias != "none")


def test_a_resumed_run_equals_an_unbroken_one(lora_here):
    whole = lora_here("whole")
    part = lora_here("part", max_steps=6, save_steps=3)
    import shutil

    for path in part.iterdir():  # as if it had been ended after step 3
        if path.name not in ("checkpoint-3", "run.json", "metrics.jsonl"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = lora_here("part", max_steps=6, save_steps=3)
    stored = tensors(again)
    for name, tensor in tensors(whole).items():
        torch.testing.assert_close(stored[name], tensor, atol=0, rtol=0)


def test_the_projector_and_the_tower_can_join_or_stay(lora_here):
    frozen = lora_here("frozen", freeze_mm_mlp_adapter=True, max_steps=2, save_steps=1)
    others = torch.load(frozen / "non_lora_trainables.bin", weights_only=True)
    prefix = "base_model.model.model.mm_projector"
    assert sorted(others) == [f"{prefix}.{n}.{kind}" for n in (0, 2) for kind in ("bias", "weight")]
    # as it was all the time, and all that a model is made of
    model = load_llava(str(frozen)).model.model.multi_modal_projector
    torch.testing.assert_close(model.linear_1.weight, others[f"{prefix}.0.weight"], atol=0, rtol=0)
    first = torch.load(frozen / "checkpoint-1" / "non_lora_trainables.bin", weights_only=True)
    assert all(torch.equal(first[name], tensor) for name, tensor in others.items())
    joined = lora_here("tower", unfreeze_mm_vision_tower=True, mm_vision_tower_lr=1e-4, max_steps=1)
    keys = torch.load(joined / "non_lora_trainables.bin", weights_only=True).keys()
    tower = "base_model.model.model.vision_tower.vision_tower.vision_model."
    assert f"{tower}encoder.layers.0.mlp.fc1.weight" in keys
    # three layers, hidden state -2 feeds the projector: the last one gets no gradient
    assert not any(".layers.2." in key or "post_layernorm" in key for key in keys)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_r": 0}, "lora_r 0"),
        ({"lora_dropout": 1.0}, "lora_dropout 1.0"),
        ({"bits": 4}, "needs bitsandbytes"),
        ({"tune_mm_mlp_adapter": True, "version": "plain"}, "lora_enable True belongs to stage 2"),
        ({"version": "plain"}, "conversation template"),
        ({"mm_vision_tower_lr": 1e-6}, "needs --unfreeze_mm_vision_tower"),
        ({"sea_labels": "x"}, "sea_labels belongs to stage 1"),
        ({"vision_tower": None}, "vision_tower is missing"),
    ],
)
def test_wrong_flags_are_named(lora_here, changes, message):
    with pytest.raises(UserError, match=message):
        lora_here("run", **changes)
