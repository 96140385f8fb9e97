"""A checkpoint that brings code: nobody asks whether to run it, and it never runs."""

import contextlib
import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from llava_sea.data.images import ImageTransform
from llava_sea.errors import UserError
from llava_sea.labels.patch_features import PatchEncoder
from llava_sea.model.builder import build_llava, llm_config, load_tokenizer, load_tower
from llava_sea.model.load import embedding_rows, load_llava
from llava_sea.model.tokenizer import load_training_tokenizer
from llava_sea.pretrained import load_pretrained


@pytest.fixture
def asked(monkeypatch):
    """The questions that were asked on stdin; each is answered "y"."""
    questions = []
    monkeypatch.setattr("builtins.input", lambda prompt="": questions.append(prompt) or "y")
    return questions


@pytest.fixture
def hostile(tiny, tmp_path):
    """Copy a folder, put code into it, and settings that ask for it; see whether it ran."""

    def copy(source, file, settings):
        folder = tmp_path / "hostile"
        shutil.copytree(source, folder)
        (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: ...\n")
        path = folder / file
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(content | settings))
        return str(folder)

    yield copy
    assert not (tmp_path / "ran").exists()


CODE = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
OF_MODEL = {"model_type": "evil", "auto_map": CODE}
OF_TOKENIZER = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": [None, "evil.Evil"]}}
OF_PROCESSOR = {
    "image_processor_type": "Evil",
    "auto_map": {"AutoImageProcessor": "evil.Evil"},
}


@pytest.mark.parametrize(
    ("source", "file", "settings", "load"),
    [
        ("llm", "config.json", OF_MODEL, lambda tiny, path: build_llava(path, str(tiny.clip))),
        ("clip", "config.json", OF_MODEL, lambda tiny, path: load_tower(path)),
        ("clip", "config.json", OF_MODEL, lambda tiny, path: PatchEncoder.from_pretrained(path)),
        (
            "clip",
            "preprocessor_config.json",
            OF_PROCESSOR,
            lambda tiny, path: ImageTransform.from_pretrained(path, None),
        ),
    ],
)
def test_code_is_refused_in_one_line(tiny, asked, hostile, source, file, settings, load):
    path = hostile(getattr(tiny, source), file, settings)
    with pytest.raises(UserError, match=rf"{path}.* code"):
        load(tiny, path)
    assert asked == []


@pytest.mark.parametrize(
    ("file", "settings"), [("tokenizer_config.json", OF_TOKENIZER), ("config.json", OF_MODEL)]
)
@pytest.mark.parametrize("load", [load_tokenizer, load_training_tokenizer])
def test_a_tokenizer_does_without_code_or_is_none(tiny, asked, hostile, load, file, settings):
    path = hostile(tiny.llm, file, settings)
    with contextlib.suppress(UserError):
        load(path, model_max_length=64)
    assert asked == []


def test_known_kinds_do_without_their_code(tiny, asked, hostile):
    """Phi-3's config.json names code that transformers has long had itself."""
    path = hostile(tiny.llm, "config.json", {"auto_map": CODE})
    assert build_llava(path, str(tiny.clip)).config.text_config.model_type == "llama"
    assert asked == []


def test_a_part_of_a_llava_cannot_ask_for_code(asked, hostile, tiny, tmp_path):
    """Its configuration is known, a model of it is not: transformers would ask for the code."""
    text = {"model_type": "blip_text_model", "auto_map": {"AutoModel": "evil.Evil"}}
    settings = {"model_type": "llava", "text_config": text, "vision_config": {}}
    path = hostile(tiny.clip, "config.json", settings)
    save_file({"lm_head.weight": torch.zeros(2, 2)}, f"{path}/model.safetensors")
    with pytest.raises(UserError, match=rf"^{path}: its config\.json has a part"):
        load_llava(path)
    assert asked == []


def test_another_kind_of_model_is_named(tiny):
    with pytest.raises(UserError, match=rf"{tiny.clip}: .*'clip'.* no language model"):
        build_llava(str(tiny.clip), str(tiny.clip))
    with pytest.raises(UserError, match=rf"^{tiny.clip}: .* CLIPConfig.*a language model"):
        load_pretrained(AutoModelForCausalLM, tiny.clip)


@pytest.mark.parametrize("kind", ["gemma4_text", "gemma3n_text"])
def test_an_llm_with_inputs_for_each_layer_is_refused_by_its_config(tiny, tmp_path, kind):
    AutoConfig.for_model(kind).save_pretrained(tmp_path)
    for open_llm in (embedding_rows, llm_config):
        with pytest.raises(UserError, match=rf"{tmp_path}: .* {kind} reads the ids"):
            open_llm(str(tmp_path))
    AutoConfig.for_model("gemma4_text", hidden_size_per_layer_input=0).save_pretrained(tmp_path)
    assert llm_config(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        ("config.json", {"vocab_size": 10}, "do not have the shapes"),
        ("config.json", {"vocab_size": "x"}, "expected int, got str"),
        ("config.json", {"num_attention_heads": 0}, "cannot be loaded .ZeroDivisionError"),
        ("generation_config.json", [], "cannot be loaded .TypeError"),
        ("tokenizer.json", {}, "cannot be loaded .KeyError"),
        ("tokenizer_config.json", None, "cannot be loaded .AttributeError"),
    ],
)
def test_settings_of_a_wrong_form_are_one_line(tiny, tmp_path, file, settings, message):
    folder = shutil.copytree(tiny.llm, tmp_path / "llm")
    if "config" in file and isinstance(settings, dict):
        settings = json.loads((folder / file).read_text()) | settings
    (folder / file).write_text(json.dumps(settings))
    with pytest.raises(UserError, match=message) as caught:
        load_tokenizer(str(folder), model_max_length=None)
        build_llava(str(folder), str(tiny.clip))
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
