"""Writing: names on disk, shards, new rows, generation settings, and what a failure leaves."""

import copy
import json
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_world import write
from safetensors.torch import load_file
from transformers import AutoConfig, GenerationConfig

from llava_sea.errors import UserError
from llava_sea.model import write as write_module
from llava_sea.model import write_files
from llava_sea.model.load import load_llava
from llava_sea.model.names import to_stock, to_written
from llava_sea.model.write import grow, valid_generation_config, write_config


def snapshot(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_names_on_disk_are_those_of_llava_hf(case, tmp_path):
    write(case, tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    layer = "language_model.model.layers.1.self_attn.q_proj.weight"
    assert {
        "language_model.model.embed_tokens.weight",
        "language_model.model.norm.weight",
        "language_model.lm_head.weight",
        "multi_modal_projector.linear_1.weight",
        "multi_modal_projector.linear_2.bias",
        "vision_tower.vision_model.embeddings.class_embedding",
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
        "vision_tower.vision_model.post_layernorm.weight",
        layer,
    } <= names
    assert len(names) == len(case.model.state_dict())
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "llava"
    assert config["architectures"] == ["LlavaForConditionalGeneration"]
    assert config["text_config"]["rope_theta"] == 5e5
    assert config["image_token_index"] == len(case.tokenizer)
    assert config["text_config"]["vocab_size"] % 64 == 0
    recorded = (config["image_aspect_ratio"], config["conversation_template"])
    assert recorded == ("pad", "v1") and config["tokenizer_model_max_length"] == 900
    assert config["mm_vision_tower"] == case.tower


@pytest.mark.parametrize(
    ("kind", "name", "old"),
    [
        (
            "dinov2",
            "encoder.layer.0.attention.q_proj.weight",
            "encoder.layer.0.attention.attention.query.weight",
        ),
        ("dinov3_vit", "model.layer.0.layer_scale1.lambda1", "layer.0.layer_scale1.lambda1"),
        ("dinov3_vit", "norm.weight", "norm.weight"),
        ("tipsv2_vision_model", "layernorm.weight", "norm.weight"),
        ("tipsv2_vision_model", "encoder.layer.0.norm1.bias", "encoder.layer.0.norm1.bias"),
    ],
)
def test_towers_have_the_names_that_stock_readers_know(kind, name, old):
    assert to_written(f"model.vision_tower.{name}", kind) == f"vision_tower.{old}"
    assert to_stock(f"vision_tower.{old}", kind) == f"model.vision_tower.{name}"


THETA = {"rope_theta": 1e4}
LINEAR = {"rope_type": "linear", "factor": 2.0}
LONG = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
PARTIAL = THETA | {"partial_rotary_factor": 1.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("rope", "old"),
    [
        ({"rope_type": "default", "rope_theta": 1e6}, {"rope_theta": 1e6}),
        (LINEAR | THETA, THETA | {"rope_scaling": LINEAR}),
        (
            {"rope_type": "longrope"} | PARTIAL | LONG,
            PARTIAL | {"rope_scaling": {"type": "longrope"} | LONG},
        ),
    ],
    ids=lambda value: value.get("rope_type", ""),
)
def test_positions_are_written_for_old_and_new_readers(case, tmp_path, rope, old):
    """Transformers 4 does not know rope_parameters and would take a theta of 10,000."""
    config = copy.deepcopy(case.model.config)
    kind = "phi3" if rope["rope_type"] == "longrope" else "llama"
    settings = {"hidden_size": 32, "num_attention_heads": 2, "max_position_embeddings": 128}
    if kind == "phi3":
        settings["original_max_position_embeddings"] = 64
    config.text_config = AutoConfig.for_model(kind, rope_parameters=rope, **settings)
    write_config(tmp_path / "config.json", config.to_diff_dict(), torch.float32)
    text_config = json.loads((tmp_path / "config.json").read_text())["text_config"]
    assert {name: text_config[name] for name in old} == old
    again = AutoConfig.from_pretrained(tmp_path).text_config.rope_parameters
    assert {name: again[name] for name in rope} == rope


def test_tied_weights_are_written_once(make_case, tmp_path):
    tied = make_case("siglip-square-plain-legacy-tied")
    write(tied, tmp_path)
    assert "language_model.lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    loaded = load_llava(str(tmp_path)).model
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight


def test_shards_hold_the_same_and_replace_a_whole_file(case, tmp_path):
    write(case, tmp_path)
    whole = load_file(tmp_path / "model.safetensors")
    (tmp_path / "notes.txt").write_text("mine")
    files = write(case, tmp_path, max_shard_size="40KB")
    shards = [name for name in files if name.startswith("model-")]
    assert len(shards) > 2 and not (tmp_path / "model.safetensors").exists()
    together = {}
    for name in shards:
        tensors = load_file(tmp_path / name)
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        assert size <= 40_000 or len(tensors) == 1
        together |= tensors
    assert together.keys() == whole.keys()
    assert all(torch.equal(together[name], whole[name]) for name in whole)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(whole)
    assert index["metadata"]["total_size"] == sum(t.numel() * 4 for t in whole.values())
    write(case, tmp_path)
    left = sorted(p.name for p in tmp_path.iterdir())
    assert "notes.txt" in left and not [n for n in left if n.startswith(("model-", "."))]
    assert "model.safetensors.index.json" not in left


def test_all_files_have_the_umasks_mode(case, tmp_path):
    before = os.umask(0o027)
    try:
        write(case, tmp_path)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(1, 30))
def test_a_new_row_is_never_the_most_likely(seed, rows, added):
    generator = torch.Generator().manual_seed(seed)
    table_VD = torch.randn(rows, 8, generator=generator)
    grown = grow(table_VD, rows + added)
    assert torch.equal(grown[:rows], table_VD) and len(grown) == rows + added
    logits = grown @ torch.randn(8, 50, generator=generator)
    assert (logits.argmax(0) < rows).all()
    torch.testing.assert_close(logits[rows], logits[:rows].mean(0), rtol=1e-4, atol=1e-5)
    assert grow(table_VD, rows - 1) is table_VD


def test_the_live_model_and_tokenizer_are_not_changed(case, tmp_path):
    state = {name: tensor.clone() for name, tensor in case.model.state_dict().items()}
    config, length = case.model.config.to_dict(), len(case.tokenizer)
    write(case, tmp_path, dtype=torch.bfloat16)
    assert case.model.config.to_dict() == config and len(case.tokenizer) == length
    assert "<image>" not in case.tokenizer.get_added_vocab()
    assert case.tokenizer.padding_side == "right" and case.tokenizer.chat_template is None
    after = case.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())
    written = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}


@pytest.mark.parametrize("harm", ["missing", "unknown", "shape"])
def test_weights_of_another_model_are_refused(case, tmp_path, harm):
    state = dict(case.model.state_dict())
    name = "model.language_model.norm.weight"
    if harm == "missing":
        del state[name]
    elif harm == "unknown":
        state["lm_head.bias"] = torch.zeros(3)
    else:
        state[name] = torch.zeros(5)
    with pytest.raises(UserError, match=r"norm\.weight|lm_head\.bias"):
        write(case, tmp_path, state_dict=state)
    assert not list(tmp_path.iterdir())


def test_a_save_that_fails_leaves_the_earlier_one_whole(case, tmp_path, monkeypatch):
    write(case, tmp_path, max_shard_size="40KB")
    before = snapshot(tmp_path)

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write_module, "write_processor", full)
    with pytest.raises(OSError, match="No space"):
        write(case, tmp_path, dtype=torch.bfloat16)
    assert snapshot(tmp_path) == before
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


def test_a_move_that_fails_puts_the_earlier_files_back(case, tmp_path, monkeypatch):
    write(case, tmp_path, max_shard_size="40KB")
    before = snapshot(tmp_path)
    real, calls = os.replace, []

    def fails_once(source, target):
        calls.append(target)
        if len(calls) == len(before) + 3:
            raise OSError(5, "Input/output error")
        real(source, target)

    monkeypatch.setattr(write_files.os, "replace", fails_once)
    with pytest.raises(OSError, match="Input/output"):
        write(case, tmp_path, dtype=torch.bfloat16)
    assert snapshot(tmp_path) == before
    assert load_llava(str(tmp_path)).model.dtype == torch.float32


def test_a_full_disk_that_safetensors_meets_names_the_file(case, tmp_path, monkeypatch):
    from safetensors import SafetensorError

    def full(*_args, **_options):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("llava_sea.model.write.save_file", full)
    with pytest.raises(OSError, match=r"No space left.*/model\.safetensors") as caught:
        write(case, tmp_path)
    assert caught.value.errno == 28


def test_generation_settings_that_transformers_refuses_are_put_right(case, tmp_path):
    """Vicuna's come with a temperature and a top_p but without do_sample."""
    live = GenerationConfig(eos_token_id=2, max_length=4096, repetition_penalty=1.1)
    live.temperature, live.top_p = 0.9, 0.6
    with pytest.raises(ValueError, match="temperature"):
        live.save_pretrained(tmp_path / "refused")
    valid_generation_config(live, case.tokenizer, [2, 13], 0).save_pretrained(tmp_path)
    written = GenerationConfig.from_pretrained(tmp_path)
    assert written.eos_token_id == [2, 13] and written.repetition_penalty == 1.1
    assert written.temperature in (None, 1.0) and not written.do_sample

    live.do_sample = True
    assert valid_generation_config(live, case.tokenizer, [2], 0).temperature == 0.9
