"""The LLM of a loaded checkpoint as a plain causal LM: weights, tokenizer, generation settings.

For benchmarks of language (MMLU). Tokens and weights are the LLM's; the rows that were appended for
the token ``<image>`` when the checkpoint was written (``llm_vocab_size`` in its config.json) are
taken out again. Limits: rows that others appended and filled (``llava-hf/llava-1.5-7b-hf`` has
32,064 for Vicuna's 32,000) stay.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

from llava_sea.conversation import get_template
from llava_sea.data.tokenize import padding_id, stop_ids
from llava_sea.errors import naming
from llava_sea.files import read_object
from llava_sea.model.builder import without_zero3
from llava_sea.model.load import Loaded
from llava_sea.model.tokenizer import write_tokenizer
from llava_sea.model.write import LLM_ROWS, end_ids, valid_generation_config, write_config
from llava_sea.model.write_files import replaced_together


def llm_rows(model: LlavaForConditionalGeneration) -> int:
    """Count the rows of the vocabulary's tables that are the LLM's own."""
    config: Any = model.config
    rows = int(config.text_config.vocab_size)
    return min(rows, int(config.to_dict().get(LLM_ROWS) or rows))


def write_llm(folder: Path, loaded: Loaded, version: str, max_shard_size: str) -> list[str]:
    """Write the LLM of a loaded checkpoint with its tokenizer; return the names of the files.

    The checkpoint is used up. Other files in the folder are left alone. `version` is the
    conversation template, or "".
    """
    llava: Any = loaded.model
    config = copy.deepcopy(llava.config.text_config)
    rows = int(config.vocab_size)
    with torch.device("meta"), without_zero3():
        llm: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    setattr(llm, llm.base_model_prefix, llava.model.language_model)
    llm.set_output_embeddings(llava.lm_head)
    llm.config = llm.base_model.config = config
    llm.generation_config = valid_generation_config(
        llava.generation_config,
        loaded.tokenizer,
        _ends(loaded, version),
        padding_id(loaded.tokenizer, rows),
    )
    if (own := llm_rows(llava)) < rows:
        llm.resize_token_embeddings(own, mean_resizing=False)
    tokenizer: Any = copy.deepcopy(loaded.tokenizer)
    tokenizer.padding_side = "left"
    with replaced_together(folder) as staging:
        with naming(staging / "model.safetensors"):
            llm.save_pretrained(staging, max_shard_size=max_shard_size)
        settings = read_object(staging / "config.json")
        settings.pop("_name_or_path", None)  # a path on the training machine
        write_config(staging / "config.json", settings, llm.dtype)
        write_tokenizer(staging, tokenizer, tokenizer.chat_template)
        return sorted(path.name for path in staging.iterdir())


def _ends(loaded: Loaded, version: str) -> list[int]:
    """Return the tokens that end an answer: the LLM's own and the end of the training's template.

    A template of captions alone (stage 1) leaves the LLM as it was, and so its end tokens.
    """
    tokenizer = loaded.tokenizer
    ends = end_ids(loaded.model.generation_config)
    if version:
        template = get_template(version, tokenizer)
        stops = stop_ids(template, tokenizer)
        ends = [token for token in ends if token not in stops or token == tokenizer.eos_token_id]
        if not template.caption_only:
            ends += stops
    return ends or [tokenizer.eos_token_id]
