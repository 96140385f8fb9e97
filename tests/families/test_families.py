"""Every tower with every family of LLMs: both stages, written, read again, and an answer."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from llava_sea.conversation import get_template
from llava_sea.data.images import load_image
from llava_sea.data.records import Turn
from llava_sea.data.tokenize import stop_ids, tokenize_prompt
from llava_sea.model.generate import generate
from llava_sea.model.load import load_llava
from tests import worlds

SHAPE = worlds.SHAPE | {"num_hidden_layers": 2, "num_key_value_heads": 1}
LLAMA3_TOKENS = ["<|begin_of_text|>", "<|end_of_text|>"]
LLAMA3_TOKENS += ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
PHI3_TOKENS = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
QWEN_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
GEMMA_TOKENS = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
TIED = {"tie_word_embeddings": True}
# family -> model type, its config, the tokenizer's kind and special tokens, the template
# (auto: the tokenizer's own chat template)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{{ m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FAMILIES = {
    "vicuna": ("llama", {}, "pieces", [], "v1"),
    "llama3": ("llama", {"rope_theta": 5e5}, "bytes", LLAMA3_TOKENS, "llama_3"),
    "gemma": ("gemma", {"head_dim": 16} | TIED, "bytes", GEMMA_TOKENS, "gemma"),
    "phi3": ("phi3", {"pad_token_id": 0}, "pieces", PHI3_TOKENS, "phi3"),
    "mistral": ("mistral", {"sliding_window": None}, "pieces", [], "mistral"),
    "qwen2": ("qwen2", TIED, "bytes", QWEN_TOKENS, "qwen"),
    "qwen3": ("qwen3", {"head_dim": 16}, "bytes", QWEN_TOKENS, "auto"),
}
TOWERS = ("clip", "siglip", "dinov2")
PAIRS = [
    # by default each family with one tower
    pytest.param(family, tower, marks=[pytest.mark.slow] * (number % 3 != place))
    for number, family in enumerate(FAMILIES)
    for place, tower in enumerate(TOWERS)
]


def save_llm(folder: Path, family: str, tiny: SimpleNamespace) -> Path:
    """Write a random causal LM of a family with its tokenizer."""
    model_type, changes, kind, special, _ = FAMILIES[family]
    if kind == "pieces":
        tokenizer = AutoTokenizer.from_pretrained(tiny.llm)
        tokenizer.add_special_tokens({"additional_special_tokens": special})
    else:
        corpus = [turn["value"] for r in tiny.records for turn in r["conversations"]]
        bos = next((t for t in special if t in ("<|begin_of_text|>", "<bos>")), None)
        eos = next(t for t in special if t in ("<|end_of_text|>", "<eos>", "<|endoftext|>"))
        tokenizer = worlds.byte_level_tokenizer(corpus, special, eos, bos)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    torch.manual_seed(4)
    own = {"vocab_size": len(tokenizer) + 5, "max_position_embeddings": 512}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model(
        model_type, **SHAPE | own | ends | {"tie_word_embeddings": False} | changes
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("family", "tower"), PAIRS)
def test_both_stages_out_in_and_an_answer(
    run, tiny, tiny_labels, tiny_siglip_labels, tmp_path, family, tower
):
    names = [record["image"] for record in tiny.records]
    (tmp_path / "finetune.json").write_text(
        json.dumps(
            [
                worlds.record(0, names[0], "<image>\nWhat is it?", "a ball", "Colour?", "red"),
                worlds.record(1, names[1:3], "first: <image> second: <image> same?", "no"),
                worlds.record(2, None, "Say red.", "red"),
                worlds.record(3, None, "Say a ball.", "a ball"),
            ]
        )
    )
    if tower == "dinov2":  # sees what CLIP sees, in 5 x 5 patches
        tower_path = worlds.save_dinov2(tmp_path / "dinov2", 30)
        worlds.clip_processor(30).save_pretrained(tower_path)
    else:
        tower_path = getattr(tiny, tower)
    version = FAMILIES[family][-1]
    parts = {
        "model_name_or_path": save_llm(tmp_path / "llm", family, tiny),
        "vision_tower": tower_path,
    }
    stage1, row = run(
        "stage1",
        **parts,
        tune_mm_mlp_adapter=True,
        version="plain",
        data_path=tiny.data,
        sea_labels=tiny_siglip_labels if tower == "siglip" else tiny_labels,
        sea_transfer=tower == "dinov2",
    )
    assert row["lm_loss"] > 0 and row["sea_loss"] > 0 and row["sea_pairs"] > 1
    stage2, row = run(
        "stage2",
        **parts,
        version=version,
        pretrain_mm_mlp_adapter=stage1 / "mm_projector.bin",
        data_path=tmp_path / "finetune.json",
        image_aspect_ratio="pad",
    )
    assert 0 < row["lm_loss"] < 10

    loaded = load_llava(str(stage2))
    assert (loaded.version, loaded.image_aspect_ratio) == (version, "pad")
    template = get_template(version, loaded.tokenizer)
    prompt = [Turn("human", "<image>\nWhat is it?")]
    tokens = loaded.model.config.image_seq_length
    ids, mask = tokenize_prompt(prompt, template, loaded.tokenizer, tokens)
    pixels = loaded.transform(load_image(tiny.images, names[0], 0).image)
    answer = generate(
        loaded.model,
        torch.tensor([ids]),
        torch.tensor([mask]),
        pixels[None],
        max_new_tokens=6,
        stop_ids=stop_ids(template, loaded.tokenizer),
    )
    assert 1 <= answer.shape[1] <= 6
    assert answer[0].tolist() == worlds.greedy(loaded.model, ids, mask, pixels, answer.shape[1])
