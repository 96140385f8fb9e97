"""LoRA in stage 2: what is trained and written, who can read it, QLoRA, refusals."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from llava_sea.errors import UserError
from llava_sea.model.load import load_llava
from llava_sea.train import stage2
from tests.worlds import interrupt, read_metrics

LORA = {"lora_enable": True, "lora_r": 4, "lora_alpha": 8, "mm_projector_lr": 1e-3}
MODEL = "base_model.model.model"
PROJECTOR = [f"{MODEL}.mm_projector.{n}.{kind}" for n in (0, 2) for kind in ("bias", "weight")]


def others_of(folder):
    return torch.load(folder / "non_lora_trainables.bin", weights_only=True)


def test_what_a_run_leaves(tune_here, tiny):
    output_dir = tune_here("run", **LORA)
    names = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    adapters = load_file(output_dir / "adapter_model.safetensors")
    assert adapters[f"{MODEL}.layers.0.self_attn.q_proj.lora_A.weight"].shape == (4, 32)
    assert len(adapters) == 2 * 2 * len(names)  # A and B, two layers
    assert sorted(others_of(output_dir)) == PROJECTOR
    config = json.loads((output_dir / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny.llm)
    assert set(config["target_modules"]) == names and config["r"] == 4
    model = json.loads((output_dir / "config.json").read_text())
    assert model["mm_vision_tower"] == str(tiny.clip) and model["conversation_template"] == "v1"
    files = [path for path in (output_dir / "checkpoint-6").rglob("*") if path.is_file()]
    expected = {"config.json", "adapter_config.json", "non_lora_trainables.bin"}
    assert expected <= {path.name for path in files}
    # nothing frozen: the LLM alone has 128,640 numbers
    assert sum(path.stat().st_size for path in files) < 350_000

    # PEFT reads the adapters onto the LLM alone
    llm = AutoModelForCausalLM.from_pretrained(tiny.llm)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        plain = llm(ids).logits
        wrapped = PeftModel.from_pretrained(llm, output_dir).eval()
        assert (wrapped(ids).logits - plain).abs().max() > 1e-3
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            stored = adapters[name.replace(".default.", ".")]
            torch.testing.assert_close(parameter, stored, atol=0, rtol=0)


@pytest.mark.parametrize("bias", ["none", "all", "lora_only"])
def test_only_adapters_projector_and_asked_biases_move(tune_here, watched, monkeypatch, bias):
    make = stage2.Stage2Model  # as `watched` left it

    def with_biases(llava):  # Qwen's kind: biases in attention
        for layer in llava.model.language_model.layers:
            base = layer.self_attn.q_proj.base_layer
            base.bias = torch.nn.Parameter(torch.zeros(32), requires_grad=bias != "none")
        return make(llava)

    monkeypatch.setattr(stage2, "Stage2Model", with_biases)
    shared = {"max_steps": 2, "save_strategy": "no"}
    output_dir = tune_here("run", lora_bias=bias, **LORA, **shared)
    moved = watched.moved()
    biases = {name for name in watched.before if name.endswith("q_proj.base_layer.bias")}
    assert len(biases) == 2 and (biases <= moved) == (bias != "none")
    assert all("lora_" in name or "multi_modal_projector" in name for name in moved - biases)
    assert any("lora_B" in name for name in moved)
    adapters = load_file(output_dir / "adapter_model.safetensors")
    assert (f"{MODEL}.layers.0.self_attn.q_proj.bias" in adapters) == (bias != "none")


def test_the_projector_and_the_tower_can_join_or_stay(tune_here):
    frozen = tune_here("frozen", freeze_mm_mlp_adapter=True, max_steps=2, save_steps=1, **LORA)
    others = others_of(frozen)
    assert sorted(others) == PROJECTOR
    # as it was all the time, and all that a model is made of
    model = load_llava(str(frozen)).model.model.multi_modal_projector
    torch.testing.assert_close(model.linear_1.weight, others[PROJECTOR[1]], atol=0, rtol=0)
    first = others_of(frozen / "checkpoint-1")
    assert all(torch.equal(first[name], tensor) for name, tensor in others.items())
    tower = {"unfreeze_mm_vision_tower": True, "mm_vision_tower_lr": 1e-4}
    keys = others_of(tune_here("tower", max_steps=1, **tower, **LORA)).keys()
    prefix = f"{MODEL}.vision_tower.vision_tower.vision_model."
    assert f"{prefix}encoder.layers.0.mlp.fc1.weight" in keys
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
def test_wrong_flags_are_named(tune_here, changes, message):
    with pytest.raises(UserError, match=message):
        tune_here("run", **LORA | changes)


@pytest.mark.slow
def test_qlora_is_trained_resumed_and_merged(tune_here, repo):
    pytest.importorskip("bitsandbytes")
    models = repo / "playground" / "models"  # wide enough for the 4-bit kernels
    flags = {"lora_enable": True, "bits": 4, "lora_r": 4, "max_steps": 4, "save_steps": 2}
    flags |= {"model_name_or_path": models / "llm-large", "vision_tower": models / "clip"}
    run = tune_here("run", model_max_length=512, **flags)
    whole = read_metrics(run)
    interrupt(run, 2)
    again = read_metrics(tune_here("run", model_max_length=512, **flags))
    assert whole[4]["loss"] < whole[1]["loss"]
    assert [whole[step]["loss"] for step in (3, 4)] == [again[step]["loss"] for step in (3, 4)]
    merged = load_llava(str(run), dtype=torch.float32).model
    assert not any("lora" in name for name in merged.state_dict())
    assert all(torch.isfinite(tensor).all() for tensor in merged.state_dict().values())
    base = AutoModelForCausalLM.from_pretrained(models / "llm-large", dtype=torch.float32).model
    llms = (merged.model.language_model, base)
    one, other = (llm.layers[0].self_attn.q_proj.weight for llm in llms)
    assert not torch.equal(one, other)
