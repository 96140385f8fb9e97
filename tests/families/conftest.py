"""Small random models of every family, with tokenizers of their kinds, as users have them."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from tests import worlds

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
}

# family -> (model type, config, tokenizer's kind, its special tokens)
LLAMA3_TOKENS = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]
PHI3_TOKENS = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
QWEN_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
GEMMA_TOKENS = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
FAMILIES = {
    "vicuna": ("llama", {}, "pieces", []),
    "llama3": ("llama", {"rope_theta": 5e5}, "bytes", LLAMA3_TOKENS),
    "gemma": ("gemma", {"head_dim": 16}, "bytes", GEMMA_TOKENS),
    "phi3": ("phi3", {"pad_token_id": 0}, "pieces", PHI3_TOKENS),
    "mistral": ("mistral", {"sliding_window": None}, "pieces", []),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}, "bytes", QWEN_TOKENS),
    "qwen3": ("qwen3", {"head_dim": 16}, "bytes", QWEN_TOKENS),
}


def byte_level_tokenizer(corpus: list[str], special: list[str]) -> PreTrainedTokenizerFast:
    """Llama 3's, Qwen's kind: byte-level BPE; BOS where the special tokens name one."""
    bos = next((t for t in special if t in ("<|begin_of_text|>", "<bos>")), None)
    eos = next(t for t in special if t in ("<|end_of_text|>", "<eos>", "<|endoftext|>"))
    more = {"eos_token": eos, "additional_special_tokens": special}
    return worlds.byte_level(corpus, special, bos, **more)


def save_llm(folder: Path, family: str, tiny: SimpleNamespace) -> None:
    """Write a random causal LM of a family with its tokenizer."""
    model_type, changes, kind, special = FAMILIES[family]
    if kind == "pieces":
        tokenizer = AutoTokenizer.from_pretrained(tiny.llm)
        tokenizer.add_special_tokens({"additional_special_tokens": special})
    else:
        corpus = [turn["value"] for r in tiny.records for turn in r["conversations"]]
        tokenizer = byte_level_tokenizer(corpus, special)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(4)
    config = AutoConfig.for_model(
        model_type,
        **SHAPE | {"vocab_size": len(tokenizer) + 5, "tie_word_embeddings": False} | changes,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    if family == "gemma":
        config.tie_word_embeddings = True
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


@pytest.fixture(scope="session")
def zoo(tiny, tmp_path_factory):
    """`llm(family)` and `tower(name)` give folders; made once a session."""
    root = tmp_path_factory.mktemp("zoo")

    def llm(family: str) -> Path:
        folder = root / family
        if not folder.exists():
            save_llm(folder, family, tiny)
        return folder

    def tower(name: str) -> Path:
        if name != "dinov2":
            return Path(getattr(tiny, name))
        folder = root / name
        if not folder.exists():
            worlds.save_dinov2(folder, 30, cut_off=0)  # 5 x 5 patches of CLIP's view
        return folder

    yield SimpleNamespace(llm=llm, tower=tower)
    shutil.rmtree(root)
