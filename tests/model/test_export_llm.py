"""`python -m llava_sea.model.export_llm`: a plain causal LM, equal to the one in the Llava."""

import json

import pytest
import torch
from bos_case import with_bos
from llava_layouts import write_full, write_lora, write_projector_only
from model_world import CASES, write
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from llava_sea.errors import UserError
from llava_sea.model.export_llm import main
from llava_sea.model.load import load_llava
from llava_sea.model.write_llm import appended_rows
from llava_sea.model.write_weights import grow

TEXT = "a red ball beside a green box"


def export(source, out, *flags):
    main(["--model_path", str(source), "--output_dir", str(out), *flags])
    return AutoModelForCausalLM.from_pretrained(out).eval(), AutoTokenizer.from_pretrained(out)


@torch.no_grad()
def logits_inside(llava, ids):
    hidden = llava.model.language_model(input_ids=ids).last_hidden_state
    return llava.lm_head(hidden)


@pytest.fixture(scope="module")
def case(make_case):
    return make_case("clip-pad-v1")


@pytest.mark.parametrize("name", [*CASES, "clip-pad-v1 with BOS"])
def test_an_exported_llava_gives_its_llm_back(make_case, name, tmp_path, capsys):
    name, _, has_bos = name.partition(" ")
    case = with_bos(make_case(name)) if has_bos else make_case(name)
    write(case, tmp_path / "llava")
    llm, tokenizer = export(tmp_path / "llava", tmp_path / "llm")
    said = capsys.readouterr().out
    original = AutoModelForCausalLM.from_pretrained(case.llm).state_dict()
    assert llm.state_dict().keys() == original.keys()
    assert all(torch.equal(tensor, original[key]) for key, tensor in llm.state_dict().items())
    grown = CASES[name][0] != "has a row"
    assert ("taken out" in said) == grown
    assert tokenizer.get_vocab() == case.tokenizer.get_vocab()
    for text in (TEXT, f"{TEXT}\n<image> {TEXT}</s>{TEXT}"):
        assert tokenizer(text).input_ids == case.tokenizer(text).input_ids
    ids = torch.tensor([tokenizer(TEXT).input_ids])
    with torch.no_grad():
        assert torch.equal(llm(input_ids=ids).logits, logits_inside(case.model, ids))
    former = AutoModelForCausalLM.from_pretrained(case.llm).config
    assert llm.config.rope_parameters == former.rope_parameters
    assert llm.config.vocab_size == former.vocab_size


def test_a_lora_is_merged(case, tmp_path, capsys):
    source = write_lora(case, tmp_path / "x", "elsewhere/" + case.llm.name)
    llm, _ = export(source, tmp_path / "llm", "--model_base", str(case.llm), "--version", "v1")
    assert "a LoRA adapter" in capsys.readouterr().out
    layer, (a, b) = next(iter(case.updates.items()))
    expected = case.model.get_parameter(f"model.language_model.layers.{layer}.weight") + 2 * b @ a
    torch.testing.assert_close(llm.get_parameter(f"model.layers.{layer}.weight"), expected)
    inside = load_llava(str(source), model_base=str(case.llm)).model.eval()
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert torch.equal(llm(input_ids=ids).logits, logits_inside(inside, ids))


def test_a_lora_on_an_exported_llava(case, tmp_path):
    write(case, tmp_path / "base")
    source = write_lora(case, tmp_path / "x", str(tmp_path / "base"))
    llm, _ = export(source, tmp_path / "llm")
    assert llm.config.vocab_size == case.model.config.text_config.vocab_size
    layer, (a, b) = next(iter(case.updates.items()))
    expected = case.model.get_parameter(f"model.language_model.layers.{layer}.weight") + 2 * b @ a
    torch.testing.assert_close(llm.get_parameter(f"model.layers.{layer}.weight"), expected)


def test_llavas_own_layouts_and_the_dtype(case, tmp_path):
    whole = write_full(case, tmp_path / "whole", form="bin")
    llm, tokenizer = export(whole, tmp_path / "a", "--dtype", "bfloat16", "--max_shard_size", "9KB")
    assert llm.dtype == torch.bfloat16
    assert (tmp_path / "a" / "model.safetensors.index.json").is_file()
    embedding = case.model.model.language_model.embed_tokens.weight
    assert torch.equal(llm.get_input_embeddings().weight, embedding.bfloat16())
    assert tokenizer.padding_side == "left" and tokenizer.model_max_length == 777
    projector = write_projector_only(case, tmp_path / "projector")
    llm, _ = export(projector, tmp_path / "b")
    assert torch.equal(llm.get_input_embeddings().weight, embedding)


def test_generation_settings_are_valid_and_greedy(case, tmp_path):
    whole = write_full(case, tmp_path / "whole", form="bin")  # Vicuna's: temperature, no do_sample
    export(whole, tmp_path / "llm", "--version", "v1")
    settings = json.loads((tmp_path / "llm" / "generation_config.json").read_text())
    assert settings["eos_token_id"] == [2] and "temperature" not in settings
    GenerationConfig.from_pretrained(tmp_path / "llm").validate(strict=True)


def test_a_caption_ends_at_a_newline_and_the_llm_does_not(make_case, tmp_path):
    case = make_case("siglip-pad-plain")
    write(case, tmp_path / "llava")
    newline = case.tokenizer.convert_tokens_to_ids("<0x0A>")
    assert newline in GenerationConfig.from_pretrained(tmp_path / "llava").eos_token_id
    llm, _ = export(tmp_path / "llava", tmp_path / "llm")
    assert llm.generation_config.eos_token_id == [2]


def test_older_readers_find_their_settings(case, tmp_path):
    write(case, tmp_path / "llava")
    export(tmp_path / "llava", tmp_path / "llm")
    config = json.loads((tmp_path / "llm" / "config.json").read_text())
    assert config["rope_theta"] == 5e5 and config["torch_dtype"] == config["dtype"] == "float32"
    assert config["architectures"] == ["LlamaForCausalLM"] and config["model_type"] == "llama"
    assert not [key for key in config if key.startswith("mm_")] and "_name_or_path" not in config
    tokenizer = json.loads((tmp_path / "llm" / "tokenizer_config.json").read_text())
    assert tokenizer["legacy"] is False and "processor_class" not in tokenizer
    assert not (tmp_path / "llm" / "preprocessor_config.json").exists()


def test_which_rows_were_appended():
    table = torch.randn(60, 4)
    assert appended_rows([grow(table, 64)], 60) == 4
    assert appended_rows([grow(table, 64) * 1.5], 60) == 4  # trained on: the same, yet no mean
    assert appended_rows([table], 60) == appended_rows([table], 50) == 0
    own = torch.randn(64, 4)
    assert appended_rows([own], 60) == appended_rows([own], 63) == 0  # rows to spare, as Phi-3
    assert appended_rows([grow(table, 64), own], 60) == 0
    assert appended_rows([grow(torch.randn(63, 4), 64)], 63) == 1
    assert appended_rows([grow(table, 128)], 60) == 0  # an export goes to the next multiple of 64


def test_errors_name_the_flag(case, tmp_path):
    with pytest.raises(UserError, match="no checkpoint that can be loaded"):
        main(["--model_path", str(case.llm), "--output_dir", str(tmp_path / "out")])
    with pytest.raises(UserError, match="no such folder"):
        main(["--model_path", "./nowhere", "--output_dir", str(tmp_path / "out")])
    write(case, tmp_path / "llava")
    for out in (tmp_path / "llava", tmp_path):
        with pytest.raises(UserError, match=r"holds other things.*choose another folder"):
            main(["--model_path", str(tmp_path / "llava"), "--output_dir", str(out)])
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="it is a file, no folder"):
        main(["--model_path", str(tmp_path / "llava"), "--output_dir", str(tmp_path / "file")])
