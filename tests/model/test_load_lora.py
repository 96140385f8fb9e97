"""LoRA folders as LLaVA writes them: merged exactly, the base checked."""

import pytest
import torch
from llava_layouts import write_full, write_lora
from model_world import edit, save_llm, write
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from llava_sea.errors import UserError
from llava_sea.model.load import load_llava
from llava_sea.model.lora import base_fingerprint


def assert_merged(loaded, case, factor=2.0):
    """Every weight is the case's, the two updated layers plus factor B A."""
    expected = dict(case.model.state_dict())
    for layer, (a, b) in case.updates.items():
        name = f"model.language_model.layers.{layer}.weight"
        expected[name] = expected[name] + factor * (b @ a)
    found = loaded.model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_on_a_plain_llm(case, tmp_path, form):
    folder = write_lora(case, tmp_path / "x", str(case.llm), form=form)
    loaded = load_llava(str(folder))
    assert_merged(loaded, case)
    assert loaded.image_aspect_ratio == "pad" and loaded.tokenizer.model_max_length == 777


def test_its_projector_beside_it_with_bare_keys(case, tmp_path):
    folder = write_lora(case, tmp_path / "x", str(case.llm))
    state = torch.load(folder / "non_lora_trainables.bin", weights_only=True)
    (folder / "non_lora_trainables.bin").unlink()
    bare = {name.rpartition("mm_projector.")[2]: tensor for name, tensor in state.items()}
    torch.save(bare, folder / "mm_projector.bin")
    assert_merged(load_llava(str(folder)), case)


def test_on_a_llava(case, tmp_path):
    base = write_full(case, tmp_path / "base", form="safetensors")
    folder = write_lora(case, tmp_path / "x", "elsewhere/base")
    (folder / "non_lora_trainables.bin").unlink()  # the base has a projector
    assert_merged(load_llava(str(folder), model_base=str(base)), case)
    write(case, tmp_path / "hf" / "base")
    loaded = load_llava(str(folder), model_base=str(tmp_path / "hf" / "base"))
    assert loaded.version == "v1" and loaded.model.config.text_config.vocab_size == 384


def test_equals_peft(case, tmp_path):
    """An adapter that peft made, with rank and alpha patterns and rsLoRA, merged by both."""
    llm = AutoModelForCausalLM.from_pretrained(case.llm)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "v_proj", "up_proj"],
        rank_pattern={"layers.1.self_attn.q_proj": 2},
        alpha_pattern={"up_proj": 3},
        use_rslora=True,
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(1)
    get_peft_model(llm, config).save_pretrained(tmp_path / "peft")
    plain = AutoModelForCausalLM.from_pretrained(case.llm)
    merged = PeftModel.from_pretrained(plain, tmp_path / "peft").merge_and_unload()

    folder = write_lora(case, tmp_path / "x", str(case.llm))
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (folder / name).write_bytes((tmp_path / "peft" / name).read_bytes())
    loaded = load_llava(str(folder)).model
    changed = 0
    for name, tensor in merged.model.state_dict().items():
        ours = loaded.model.language_model.state_dict()[name]
        torch.testing.assert_close(ours, tensor, rtol=0, atol=1e-6)
        changed += not torch.equal(ours, case.model.model.language_model.state_dict()[name])
    assert changed == 6


def test_another_base_by_name_or_by_fingerprint(case, tiny, tmp_path):
    other = save_llm(tiny, tmp_path / "other", "grows")
    weights = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        weights.model.embed_tokens.weight[3] += 1
    weights.save_pretrained(other)
    folder = write_lora(case, tmp_path / "x", str(case.llm))
    with pytest.raises(UserError, match=r"--model-base .*gone: no such folder"):
        load_llava(str(write_lora(case, tmp_path / "z", str(tmp_path / "gone"))))
    with pytest.raises(UserError, match=rf"trained on .*{case.llm.name}, but the base .*other"):
        load_llava(str(folder), model_base=str(other))

    fingerprint = base_fingerprint(case.model.model.language_model)
    assert fingerprint == base_fingerprint(case.model.model.language_model.to(torch.float32))
    edit(folder / "config.json", base_fingerprint=fingerprint)
    with pytest.raises(UserError, match=rf"{case.llm.name}, whose weights differ .*other"):
        load_llava(str(folder), model_base=str(other))
    moved = save_llm(tiny, tmp_path / "moved", "grows")  # the same weights under another name
    assert_merged(load_llava(str(folder), model_base=str(moved)), case)


def test_a_base_of_another_shape(case, tiny, tmp_path):
    folder = write_lora(case, tmp_path / "x", str(tiny.llm))
    adapter = folder / "adapter_model.safetensors"
    wide = {
        key: torch.ones(4, 48) if "lora_A" in key else tensor
        for key, tensor in load_file(adapter).items()
    }
    save_file(wide, adapter)
    with pytest.raises(UserError, match=r"lora_A \(4, 48\) does not fit .*\(32, 32\)"):
        load_llava(str(folder))
    deep = {key.replace("layers.1", "layers.7"): t for key, t in wide.items()}
    save_file({k: t for k, t in deep.items() if "layers.7" in k}, adapter)
    with pytest.raises(UserError, match=r"layers\.7.* is no weight of the base"):
        load_llava(str(folder))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, "use_dora is True"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"r": None}, "no r or no lora_alpha"),
        ({"r": 0}, "r 0 and lora_alpha"),
        ({"lora_alpha": None}, "lora_alpha None"),
        ({"lora_alpha": 1e400}, "lora_alpha inf"),
        ({"rank_pattern": "x"}, "rank_pattern is no object"),
        ({"r": 8}, "has rank 4, adapter_config.json says 8"),
        ({"base_model_name_or_path": None}, "records no base model"),
    ],
)
def test_what_cannot_be_merged_exactly_is_refused(case, tmp_path, settings, message):
    folder = write_lora(case, tmp_path / "x", str(case.llm), **settings)
    with pytest.raises(UserError, match=message):
        load_llava(str(folder))


def test_an_intermediate_checkpoint_without_its_projector(case, tmp_path):
    """LLaVA's checkpoint-N: users copied the final projector there, which is wrong."""
    folder = write_lora(case, tmp_path / "x", str(case.llm))
    trained = torch.load(folder / "non_lora_trainables.bin")
    (lost,) = [name for name in trained if name.endswith("projector.2.bias")]
    del trained[lost]
    torch.save(trained, folder / "non_lora_trainables.bin")
    with pytest.raises(UserError, match=r"the trained projector lacks .*linear_2\.bias"):
        load_llava(str(folder))
    (folder / "non_lora_trainables.bin").unlink()
    with pytest.raises(UserError, match=r"the trained projector .* is not there"):
        load_llava(str(folder))
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="neither of"):
        load_llava(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match="at the end of LoRA training only"):
        load_llava(str(folder))
