"""Whole checkpoints and lone projectors, in the exact layouts, under names that say nothing."""

import json
import pickle
import shutil

import pytest
import torch
from llava_layouts import copy_tokenizer, write_full, write_projector_only
from model_world import write
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from llava_sea.errors import UserError
from llava_sea.labels.patch_features import PatchEncoder
from llava_sea.model.builder import build_llava, build_llava_without_llm, load_tower
from llava_sea.model.load import embedding_rows, load_llava


def assert_same_model(loaded, case, *, rows=None):
    expected, found = case.model.state_dict(), loaded.model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name][: len(tensor)] if tensor.ndim else found[name], tensor), name
    config = loaded.model.config
    assert (
        config.image_token_index == config.text_config.vocab_size == (rows or len(case.tokenizer))
    )
    assert config.vision_feature_layer == -2
    assert config.vision_feature_select_strategy == "default"
    assert type(loaded.model) is LlavaForConditionalGeneration


def assert_training_tokenizer(loaded, case, length):
    text = "What is it?</s>USER: <image> é"
    assert loaded.tokenizer(text).input_ids == case.tokenizer(text).input_ids
    assert len(loaded.tokenizer) == len(case.tokenizer)
    assert loaded.tokenizer.model_max_length == length
    assert loaded.tokenizer.padding_side == "right" and loaded.tokenizer.pad_token == "<unk>"


@pytest.mark.parametrize("form", ["bin", "safetensors"])
@pytest.mark.parametrize("with_tower", [True, False])
def test_llava_1_5(case, tmp_path, caplog, form, with_tower):
    folder = write_full(case, tmp_path / "x", form=form, with_tower=with_tower)
    caplog.set_level("INFO", "llava_sea")
    loaded = load_llava(str(folder))
    assert_same_model(loaded, case)
    assert_training_tokenizer(loaded, case, 777)
    assert loaded.image_aspect_ratio == "pad" and loaded.version is None
    assert loaded.vision_tower == case.tower and "LLaVA-1.5 checkpoint" in caplog.text
    assert ("inv_freq" in caplog.text) == (form == "bin")
    assert loaded.model.dtype == torch.float32


def test_rows_of_the_embedding_table_by_the_config_alone(case, tiny, tmp_path):
    assert embedding_rows(str(tiny.llm)) == 360
    rows = case.model.config.text_config.vocab_size
    assert embedding_rows(str(write_full(case, tmp_path / "x", form="bin"))) == rows
    write(case, tmp_path / "hf")
    assert embedding_rows(str(tmp_path / "hf")) == 384
    with pytest.raises(UserError, match=r"/nowhere: no such folder"):
        embedding_rows("/nowhere")


def test_the_released_models_type_collides_with_transformers_own(case, tmp_path):
    folder = write_full(case, tmp_path / "x", form="bin", model_type="llava")
    loaded = load_llava(str(folder))
    assert_same_model(loaded, case)
    assert_training_tokenizer(loaded, case, 777)
    assert type(loaded.tokenizer) is type(case.tokenizer)


def test_a_tower_named_by_hub_id_is_overridden(case, tmp_path):
    folder = write_full(
        case, tmp_path / "x", form="safetensors", mm_vision_tower="openai/clip-vit-none"
    )
    with pytest.raises(UserError, match=r"openai/clip-vit-none.*--vision_tower"):
        load_llava(str(folder))
    assert_same_model(load_llava(str(folder), vision_tower=case.tower), case)
    described = tmp_path / "tower"  # the weights are in the checkpoint
    described.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(f"{case.tower}/{name}", described)
    assert_same_model(load_llava(str(folder), vision_tower=str(described)), case)


@pytest.mark.parametrize("style", ["ours", "module names", "transformers 5.23", "bin"])
def test_llava_hf(case, tmp_path, caplog, style):
    write(case, tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    if style == "module names":
        rows = len(weights["language_model.lm_head.weight"])
        grown = case.model.state_dict()
        for name in ("lm_head.weight", "model.language_model.embed_tokens.weight"):
            grown[name] = torch.cat([grown[name], torch.zeros(rows - len(grown[name]), 32)])
        save_file(grown, path, metadata={"format": "pt"})
    elif style == "transformers 5.23":
        save_file({k.replace("vision_model.", ""): v for k, v in weights.items()}, path)
    elif style == "bin":
        torch.save(weights, tmp_path / "pytorch_model.bin")
        path.unlink()
        (tmp_path / "tokenizer.json").unlink()
        copy_tokenizer(case, tmp_path)
    loaded = load_llava(str(tmp_path), vision_tower="another")
    assert "--vision_tower another is not used" in caplog.text
    assert_same_model(loaded, case, rows=384)
    assert_training_tokenizer(loaded, case, 900)
    assert (loaded.version, loaded.image_aspect_ratio) == ("v1", "pad")
    assert loaded.vision_tower == case.tower


def test_written_loaded_and_written_again_is_the_same(case, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    write(case, first)
    loaded = load_llava(str(first))
    loaded.template = case.template
    write(loaded, second, extra_config={"mm_vision_tower": loaded.vision_tower})
    for name in ("chat_template.jinja", "config.json", "preprocessor_config.json"):
        assert (first / name).read_text() == (second / name).read_text()
    weights = [load_file(folder / "model.safetensors") for folder in (first, second)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    text = "<image>a kite</s>USER: é"
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (first, second)]
    assert tokenizers[0](text).input_ids == tokenizers[1](text).input_ids


def test_an_image_token_before_others_keeps_their_ids(case, tmp_path):
    """llava-hf's 1.5 models have <image> at 32000 and <pad> at 32001."""
    write(case, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(tmp_path)
    loaded = load_llava(str(tmp_path)).tokenizer
    assert loaded.convert_tokens_to_ids("<pad>") == len(case.tokenizer) + 1
    assert "<image>" not in loaded.get_added_vocab()
    assert loaded("a <image>").input_ids == case.tokenizer("a <image>").input_ids


@pytest.mark.parametrize("prefix", ["model.", "base_model.model.model.", "module.llava.model."])
def test_a_projector_alone(case, tmp_path, prefix):
    folder = write_projector_only(case, tmp_path / "x", prefix)
    loaded = load_llava(str(folder))
    assert_same_model(loaded, case)
    assert_training_tokenizer(loaded, case, 777)
    assert load_llava(str(folder), model_base=str(case.llm)).kind == loaded.kind


def test_a_projector_without_a_recorded_llm(case, tmp_path):
    folder = write_projector_only(case, tmp_path / "x", _name_or_path=None)
    with pytest.raises(UserError, match="name it with --model-base"):
        load_llava(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match="without the config"):
        load_llava(str(folder))


def test_a_smaller_dtype_is_kept_or_asked_for(case, tmp_path):
    write(case, tmp_path, dtype=torch.bfloat16)
    assert load_llava(str(tmp_path)).model.dtype == torch.bfloat16
    wide = load_llava(str(tmp_path), dtype=torch.float32).model
    assert {p.dtype for p in wide.parameters()} == {torch.float32}


@pytest.fixture
def folder(case, tmp_path):
    return write_full(case, tmp_path / "x", form="safetensors")


def change(folder, weights, drop=""):
    path = folder / "model.safetensors"
    save_file({k: t for k, t in (load_file(path) | weights).items() if k != drop}, path)


@pytest.mark.parametrize(
    ("weights", "drop", "message"),
    [
        ({}, "model.layers.1.mlp.up_proj.weight", r"missing: model\..*layers\.1\.mlp\.up_proj"),
        ({"model.norm.weight": torch.ones(33)}, "", r"norm\.weight is \(33,\).* needs \(32,\)"),
        ({"language_model.model.norm.weight": torch.ones(32)}, "", "are the same weight"),
    ],
    ids=["missing", "another shape", "the same twice"],
)
def test_weights_that_do_not_fit(folder, weights, drop, message):
    change(folder, weights, drop)
    with pytest.raises(UserError, match=message):
        load_llava(str(folder))


def test_weights_that_no_llava_has_are_named(folder, case, caplog):
    extra = {"model.layers.9.mlp.up_proj.weight": torch.ones(1), "value_head": torch.ones(1)}
    change(folder, extra)
    assert_same_model(load_llava(str(folder)), case)
    assert "layers.9.mlp" in caplog.text and "value_head" in caplog.text


def test_an_index_that_leaves_its_folder(case, tmp_path):
    folder = write_full(case, tmp_path / "y", form="bin")
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../other.bin"}}))
    with pytest.raises(UserError, match="outside its folder"):
        load_llava(str(folder))


def test_a_pickle_with_code_is_not_run(case, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    folder = write_full(case, tmp_path / "y", form="bin")
    target = folder / "pytorch_model-00001-of-00002.bin"
    for write_it in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))):
        write_it({"model.norm.weight": Evil()}, target)
        with pytest.raises(UserError, match="not loaded, since a pickle can run code"):
            load_llava(str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mm_projector_type", "linear", "two-layer GELU"),
        ("image_aspect_ratio", "anyres", "LLaVA-1.6"),
        ("mm_patch_merge_type", "spatial_unpad", "LLaVA-1.6"),
        ("mm_use_im_start_end", True, "two tokens of their own"),
        ("architectures", ["LlavaFooForCausalLM"], "names no LLM"),
    ],
)
def test_what_is_no_llava_1_5(case, tmp_path, key, value, message):
    folder = write_full(case, tmp_path / "y", form="safetensors", **{key: value})
    with pytest.raises(UserError, match=message):
        load_llava(str(folder))


def test_something_else(tiny, folder, tmp_path):
    with pytest.raises(UserError, match=r"says 'llama'.*It holds: .*config\.json.*LoRA"):
        load_llava(str(tiny.llm))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="It holds: nothing"):
        load_llava(str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"--model-path .*llava-lora: no such folder"):
        load_llava(str(tmp_path / "llava-lora"))
    with pytest.raises(UserError, match="not to be had from the hub"):
        load_llava("nobody/nothing")
    with pytest.raises(UserError, match="leave --model-base out"):  # it has all weights
        load_llava(str(folder), model_base="vicuna")


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        ("config.json", {"conversation_template": [1]}, r"conversation_template cannot be \[1\]"),
        ("config.json", {"tokenizer_model_max_length": "x"}, "max_length cannot be 'x'"),
        ("config.json", {"pad_token_id": "x"}, "a part that transformers cannot make"),
        ("config.json", {"vision_config": 5}, "a part that transformers cannot make"),
        ("config.json", {"dtype": "x"}, "a part that transformers cannot make"),
        ("generation_config.json", None, "generation_config.json: no JSON object"),
        ("tokenizer.json", None, "no tokenizer there"),
    ],
)
def test_settings_of_a_wrong_form_are_named(case, tmp_path, file, settings, message):
    write(case, tmp_path / "x")
    path = tmp_path / "x" / file
    if settings is None and file == "tokenizer.json":
        path.unlink()
    else:
        found = json.loads(path.read_text())
        path.write_text(json.dumps(found | settings if settings else settings))
    with pytest.raises(UserError, match=message) as caught:
        load_llava(str(tmp_path / "x"))
    assert str(tmp_path / "x") in str(caught.value) and "\n" not in str(caught.value)


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


HARM = {
    "cut": (lambda folder: cut(folder / "model.safetensors"), "model.safetensors: damaged or cut"),
    "empty": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "damaged or cut off"),
    "gone": (lambda folder: (folder / "model.safetensors").unlink(), "no weights there"),
    "cut torch": (lambda folder: cut(to_torch(folder)), "pytorch_model.bin: damaged or cut off"),
    "text": (lambda folder: to_torch(folder).write_text("Git LFS"), "not a file of tensors alone"),
    "shard": (lambda folder: only_an_index(folder), "1 of the 1 files .* are not there: a.safe"),
    "config": (lambda folder: cut(folder / "config.json"), "config.json: broken JSON"),
    "{}": (lambda folder: (folder / "config.json").write_text("{}"), "names no model_type"),
}


def to_torch(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


def only_an_index(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"x": "a.safetensors"}}')


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("part", ["tower", "llm", "embeddings", "labels' tower", "checkpoint"])
def test_a_damaged_part_is_one_line(case, tiny, tmp_path, part, harm):
    folder = tmp_path / "part"
    if part == "checkpoint":
        write_full(case, folder, form="safetensors")
    else:
        shutil.copytree(tiny.llm if part in ("llm", "embeddings") else tiny.clip, folder)
    spoil, message = HARM[harm]
    spoil(folder)
    load = {
        "tower": lambda: load_tower(str(folder)),
        "llm": lambda: build_llava(str(folder), str(tiny.clip)),
        "embeddings": lambda: build_llava_without_llm(str(folder), str(tiny.clip)),
        "labels' tower": lambda: PatchEncoder.from_pretrained(folder),
        "checkpoint": lambda: load_llava(str(folder)),
    }[part]
    if part == "checkpoint" and harm in ("gone", "{}"):
        message = "no checkpoint that can be loaded"
    if part == "labels' tower" and harm in ("config", "{}"):
        message = "no vision tower at .*config.json"
    with pytest.raises(UserError, match=message) as caught:
        load()
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
