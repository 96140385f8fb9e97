"""`python -m llava_sea.model.export` and `merge`: every format, and folders that are in use."""

import json
import shutil

import pytest
import torch
from llava_layouts import write_full, write_lora, write_projector_only
from model_world import CASES, with_bos, write
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoProcessor, AutoTokenizer, GenerationConfig

from llava_sea.conversation import get_template
from llava_sea.errors import UserError, run_command
from llava_sea.model.export import fit_tokenizer, main
from llava_sea.model.load import load_llava
from llava_sea.model.load_weights import read_weights
from tests.worlds import byte_level_tokenizer

FORMATS = ("hf", "llm", "lmms")
TEXT = "a red ball beside a green box"
MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a ball?"}]}]


@pytest.fixture(scope="module")
def llava(case, tmp_path_factory):
    """The case as this package writes it."""
    folder = tmp_path_factory.mktemp("llava")
    write(case, folder)
    return folder


def export(source, out, *flags):
    main(["--model_path", str(source), "--output_dir", str(out), *flags])
    return out


def export_llm(source, out, *flags):
    export(source, out, "--format", "llm", *flags)
    return AutoModelForCausalLM.from_pretrained(out).eval(), AutoTokenizer.from_pretrained(out)


def settings(folder, name="config"):
    return json.loads((folder / f"{name}.json").read_text())


def merged(case):
    """The name of a layer that the LoRA changed, and its merged weight."""
    layer, (a, b) = next(iter(case.updates.items()))
    weight = case.model.get_parameter(f"model.language_model.layers.{layer}.weight")
    return f"layers.{layer}.weight", weight + 2 * b @ a


def test_a_projector_becomes_a_model(case, tmp_path, capsys):
    source = write_projector_only(case, tmp_path / "x")
    out = export(source, tmp_path / "out", "--version", "v1", "--dtype", "bfloat16")
    said = capsys.readouterr().out
    assert "a projector with its config.json" in said and "template v1, weights in bfloat16" in said
    assert "chat_template.jinja" in said and "model.safetensors" in said
    loaded = load_llava(str(out))
    assert loaded.model.dtype == torch.bfloat16 and loaded.version == "v1"
    name = "model.multi_modal_projector.linear_2.weight"
    expected = case.model.state_dict()[name].bfloat16()
    assert torch.equal(loaded.model.state_dict()[name], expected)


def test_merge_takes_llavas_flags(case, tmp_path, caplog, capfd):
    source = write_lora(case, tmp_path / "x", "elsewhere/" + case.llm.name)
    flags = ["--model-path", str(source), "--model-base", str(case.llm), "--version", "v1"]
    main([*flags, "--save-model-path", str(tmp_path / "o")])
    assert f"merged the LoRA updates of 2 layers into {case.llm}" in caplog.text
    assert "%|" not in capfd.readouterr().err  # no bars
    name, weight = merged(case)
    found = load_llava(str(tmp_path / "o")).model.get_parameter(f"model.language_model.{name}")
    torch.testing.assert_close(found.detach(), weight)


@pytest.mark.parametrize("name", ["hf", "llm"])
def test_vicunas_generation_settings_become_valid_and_greedy(case, tmp_path, name):
    source = write_full(case, tmp_path / "x", form="bin")  # a temperature, no do_sample
    out = export(source, tmp_path / "out", "--version", "v1", "--format", name)
    written = settings(out, "generation_config")
    assert written["eos_token_id"] == [2] and "temperature" not in written
    GenerationConfig.from_pretrained(out).validate(strict=True)


@pytest.mark.parametrize("name", [*CASES, "clip-pad-v1 with BOS"])
def test_an_exported_llava_gives_its_llm_back(make_case, name, tmp_path, capsys):
    name, _, has_bos = name.partition(" ")
    case = with_bos(make_case(name)) if has_bos else make_case(name)
    write(case, tmp_path / "llava")
    llm, tokenizer = export_llm(tmp_path / "llava", tmp_path / "llm")
    grown = CASES[name][0] != "has a row"
    assert ("taken out" in capsys.readouterr().out) == grown
    former = AutoModelForCausalLM.from_pretrained(case.llm)
    assert llm.state_dict().keys() == former.state_dict().keys()
    assert all(torch.equal(t, former.state_dict()[key]) for key, t in llm.state_dict().items())
    assert tokenizer.get_vocab() == case.tokenizer.get_vocab()
    for text in (TEXT, f"{TEXT}\n<image> {TEXT}</s>{TEXT}"):
        assert tokenizer(text).input_ids == case.tokenizer(text).input_ids
    assert llm.config.rope_parameters == former.config.rope_parameters
    assert llm.config.vocab_size == former.config.vocab_size


def test_the_llm_of_a_lora_is_merged(case, llava, tmp_path, capsys):
    source = write_lora(case, tmp_path / "x", "elsewhere/" + case.llm.name)
    base = ("--model_base", str(case.llm))
    llm, _ = export_llm(source, tmp_path / "llm", *base, "--version", "v1")
    assert "a LoRA adapter" in capsys.readouterr().out
    name, weight = merged(case)
    torch.testing.assert_close(llm.get_parameter(f"model.{name}"), weight)
    source = write_lora(case, tmp_path / "y", str(llava))
    llm, _ = export_llm(source, tmp_path / "on a llava")
    assert llm.config.vocab_size == case.model.config.text_config.vocab_size
    torch.testing.assert_close(llm.get_parameter(f"model.{name}"), weight)


def test_an_export_that_was_written_again_still_knows_its_llms_rows(case, llava, tmp_path):
    out = export(export(llava, tmp_path / "a"), tmp_path / "b", "--dtype", "bfloat16")
    config = settings(out)
    assert config["dtype"] == "bfloat16" and config["mm_vision_tower"] == case.tower
    llm, _ = export_llm(tmp_path / "b", tmp_path / "llm")
    assert llm.config.vocab_size == case.model.config.text_config.vocab_size == 340


def test_llms_of_llavas_own_layouts(case, tmp_path):
    whole = write_full(case, tmp_path / "whole", form="bin")
    shards = ("--dtype", "bfloat16", "--max_shard_size", "9KB")
    llm, tokenizer = export_llm(whole, tmp_path / "a", *shards)
    assert llm.dtype == torch.bfloat16
    assert (tmp_path / "a" / "model.safetensors.index.json").is_file()
    embedding = case.model.model.language_model.embed_tokens.weight
    assert torch.equal(llm.get_input_embeddings().weight, embedding.bfloat16())
    assert tokenizer.padding_side == "left" and tokenizer.model_max_length == 777
    llm, _ = export_llm(write_projector_only(case, tmp_path / "projector"), tmp_path / "b")
    assert torch.equal(llm.get_input_embeddings().weight, embedding)


def test_a_caption_ends_at_a_newline_and_the_llm_does_not(make_case, tmp_path):
    case = make_case("siglip-pad-plain")
    write(case, tmp_path / "llava")
    newline = case.tokenizer.convert_tokens_to_ids("<0x0A>")
    assert newline in GenerationConfig.from_pretrained(tmp_path / "llava").eos_token_id
    llm, _ = export_llm(tmp_path / "llava", tmp_path / "llm")
    assert llm.generation_config.eos_token_id == [2]
    assert fit_tokenizer(tmp_path / "llava") == "</s>"


def test_older_readers_find_the_llms_settings(llava, tmp_path):
    config = settings(export(llava, tmp_path, "--format", "llm"))
    assert config["rope_theta"] == 5e5 and config["torch_dtype"] == config["dtype"] == "float32"
    assert config["architectures"] == ["LlamaForCausalLM"] and config["model_type"] == "llama"
    assert not {"_name_or_path", "llm_vocab_size"} & config.keys()
    assert not [key for key in config if key.startswith("mm_")]
    tokenizer = settings(tmp_path, "tokenizer_config")
    assert tokenizer["legacy"] is False and "processor_class" not in tokenizer
    assert not (tmp_path / "preprocessor_config.json").exists()


@pytest.mark.parametrize(
    "name", ["clip-pad-v1", "clip-square-v1-legacy", "dinov2-pad-llava_v1-tied"]
)
def test_for_lmms_eval_bos_comes_once(make_case, name, tmp_path, capsys):
    write(with_bos(make_case(name)), tmp_path / "first")
    export(tmp_path / "first", tmp_path / "out", "--format", "lmms")
    assert "answers end at </s>" in capsys.readouterr().out
    found = {}
    for folder in ("first", "out"):
        tokenizer = AutoProcessor.from_pretrained(tmp_path / folder).tokenizer
        text = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
        found[folder] = [
            tokenizer(text, add_special_tokens=special).input_ids for special in (True, False)
        ]
    twice, once = found["first"]
    assert twice == [1, *once] and once[0] == 1 and once[1] != 1
    assert found["out"] == [once, once]
    first, second = (read_weights(tmp_path / folder) for folder in ("first", "out"))
    assert all(torch.equal(first[key], second[key]) for key in first | second)


def test_for_lmms_eval_an_answer_ends_where_the_template_does(make_case, tmp_path):
    case = make_case("siglip-pad-plain")  # three rows to spare
    case.tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    case.template = get_template("chatml_direct")
    write(case, tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).eos_token == "</s>"
    assert fit_tokenizer(tmp_path) == "<|im_end|>"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.eos_token_id == case.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert len(tokenizer) == len(case.tokenizer) + 1  # <image>, and no other new token
    assert tokenizer.model_input_names == ["input_ids", "attention_mask"]


def test_what_else_a_post_processor_does_stays(llava, tmp_path):
    shutil.copytree(llava, tmp_path, dirs_exist_ok=True)
    tokenizer = byte_level_tokenizer(["a"], ["<bos>", "</s>"], "</s>", "<bos>")
    backend = tokenizer.backend_tokenizer
    as_bytes = processors.ByteLevel()
    backend.post_processor = processors.Sequence([as_bytes, backend.post_processor])
    assert tokenizer("a").input_ids[0] == 0
    tokenizer.save_pretrained(tmp_path)
    fit_tokenizer(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again("a").input_ids == tokenizer("a").input_ids[1:]
    assert "ByteLevel" in str(json.loads(again.backend_tokenizer.to_str())["post_processor"])


def test_errors_name_the_flag(case, llava, tmp_path, capsys):
    source = write_full(case, tmp_path / "x", form="safetensors")
    out = tmp_path / "out"
    with pytest.raises(UserError, match="--version"):
        export(source, out)
    with pytest.raises(UserError, match="no such conversation template"):
        export(source, out, "--version", "v9")
    with pytest.raises(UserError, match="no checkpoint that can be loaded"):
        export(case.llm, out)
    with pytest.raises(UserError, match=r"--model-path .*nowhere: no such folder"):
        export("./nowhere", out)
    for size in ("", "0GB", "5 apples", "-1"):
        with pytest.raises(SystemExit):
            export(source, out, f"--max_shard_size={size}")
        assert "--max_shard_size" in capsys.readouterr().err
    assert not out.exists()
    (tmp_path / "file").touch()
    for folder in (source, llava, tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match=r"--output_dir .*choose another"):
            export(source, folder, "--version", "v1")


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_command_goes_over_its_own_output_and_no_other_does(llava, tmp_path, name):
    out = tmp_path / "out"
    flags = ("--format", name)
    export(llava, out, *flags)
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    # cut off while the new files took the old ones' place
    for file in ("config.json", "tokenizer_config.json"):
        (out / file).unlink()
    (out / ".saving-4711-x" / "former").mkdir(parents=True)
    export(f"{llava.parent}/./{llava.name}", out, *flags)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole
    other = "hf" if name != "hf" else "llm"
    for changed in ((*flags, "--dtype", "bfloat16"), ("--format", other)):
        with pytest.raises(UserError, match="holds other things"):
            export(llava, out, *changed)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("file", ["tokenizer.json", "model.safetensors"])
def test_a_file_that_cannot_be_written_is_one_line(llava, tmp_path, capsys, file_limit, name, file):
    out = tmp_path / "out"
    export(llava, out, "--format", name)
    size = (out / file).stat().st_size
    shutil.rmtree(out)
    capsys.readouterr()
    file_limit(size - 1)
    with pytest.raises(SystemExit) as end:
        run_command(lambda: export(llava, out, "--format", name))
    assert end.value.code == 2
    (line,) = [said for said in capsys.readouterr().err.splitlines() if "error" in said]
    assert line.startswith("error: ") and "File too large (a file may have" in line
    assert file != "model.safetensors" or line.startswith(f"error: {out / file}: ")
    assert not [path for path in (out.iterdir() if out.exists() else []) if path.name[0] != "."]
