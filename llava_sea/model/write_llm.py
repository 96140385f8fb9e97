"""The LLM of a loaded checkpoint as a plain causal LM: weights, tokenizer, generation settings.

What `llava_sea.model.export_llm` writes, apart from its command line. Limits: see there.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from llava_sea.conversation import get_template
from llava_sea.data.tokenize import padding_id, stop_ids
from llava_sea.errors import naming
from llava_sea.model.builder import without_zero3
from llava_sea.model.load import Loaded
from llava_sea.model.load_weights import read_json
from llava_sea.model.write import ROWS_MULTIPLE
from llava_sea.model.write_config import SAMPLING, add_old_rope
from llava_sea.model.write_files import replaced_together
from llava_sea.model.write_processor import write_tokenizer


def appended_rows(tables: Sequence[Tensor], tokens: int) -> int:
    """Count the rows that an export appended for ``<image>`` at the end of the vocabulary's tables.

    They begin where the tokens end, reach up to the next multiple of 64, and are one row repeated
    (training keeps them so: none of them is ever seen, and equal rows have equal gradients). A
    single one is known by being the mean of all others.

    Args:
        tables: embedding and head, ``(V, D)`` each.
        tokens: of the tokenizer, without ``<image>``.
    """
    rows = len(tables[0])
    if rows != -(-(tokens + 1) // ROWS_MULTIPLE) * ROWS_MULTIPLE:
        return 0
    for table_VD in tables:
        first_D = table_VD[tokens]
        if not torch.equal(table_VD[tokens:], first_D.expand(rows - tokens, -1)):
            return 0
        mean_D = table_VD[:tokens].mean(dim=0, dtype=torch.float32).to(table_VD.dtype)
        if rows - tokens == 1 and not torch.allclose(first_D, mean_D, rtol=1e-2, atol=1e-5):
            return 0
    return rows - tokens


def take_llm(loaded: Loaded) -> PreTrainedModel:
    """Take the LLM out of a Llava as a causal LM; the weights are shared, the Llava is used up.

    Args:
        loaded: what `load_llava` returned.
    """
    llava: Any = loaded.model
    config = copy.deepcopy(llava.config.text_config)
    with torch.device("meta"), without_zero3():
        llm: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    setattr(llm, llm.base_model_prefix, llava.model.language_model)
    llm.set_output_embeddings(llava.lm_head)
    llm.config = llm.base_model.config = config
    tables = (llm.get_input_embeddings().weight, llm.get_output_embeddings().weight)
    extra = appended_rows([table.detach() for table in tables], len(loaded.tokenizer))
    if extra:
        llm.resize_token_embeddings(len(tables[0]) - extra, mean_resizing=False)
    result: PreTrainedModel = llm
    return result


def generation_settings(loaded: Loaded, version: str | None = None) -> GenerationConfig:
    """Return the LLM's generation settings: valid ones, greedy unless the LLM says it samples.

    An answer ends where the LLM's did and at the end token of the training's template. A template
    of captions alone (stage 1) leaves the LLM as it was, and so its end tokens.

    Args:
        loaded: what `load_llava` returned.
        version: conversation template, if the checkpoint records none.
    """
    live = loaded.model.generation_config
    settings = {
        key: value
        for key, value in live.to_diff_dict().items()
        if not key.startswith("_") and (live.do_sample or key not in SAMPLING)
    }
    tokenizer = loaded.tokenizer
    text_config: Any = loaded.model.config.text_config
    former = live.eos_token_id
    ends = [former] if isinstance(former, int) else list(former or [])
    name = version or loaded.version
    if name:
        template = get_template(name)
        stops = stop_ids(template, tokenizer)
        ends = [token for token in ends if token not in stops or token == tokenizer.eos_token_id]
        if not template.caption_only:
            ends += [token for token in stops if token not in ends]
    settings |= {
        "eos_token_id": ends or [tokenizer.eos_token_id],
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": padding_id(tokenizer, text_config.vocab_size),
    }
    return GenerationConfig(**settings)


def write_llm(
    folder: str | Path, loaded: Loaded, *, version: str | None = None, max_shard_size: str = "5GB"
) -> list[str]:
    """Write the LLM of a loaded checkpoint with its tokenizer; the checkpoint is used up.

    Args:
        folder: where to; other files in it are left alone.
        loaded: what `load_llava` returned.
        version: conversation template, if the checkpoint records none.
        max_shard_size: of one file of weights.

    Returns:
        The names of the files written.

    Raises:
        OSError: if a file cannot be written.
    """
    folder = Path(folder)
    generation_config = generation_settings(loaded, version)
    llm = take_llm(loaded)
    llm.generation_config = generation_config
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.padding_side = "left"
    with replaced_together(folder) as staging:
        with naming(staging / "model.safetensors"):
            llm.save_pretrained(staging, max_shard_size=max_shard_size)
        _for_old_readers(staging / "config.json")
        _write_tokenizer(staging, tokenizer)
        return sorted(path.name for path in staging.iterdir())


def _for_old_readers(path: Path) -> None:
    """Write the settings under their former names too, as transformers 4 and others read them."""
    content = read_json(path)
    content.pop("_name_or_path", None)  # a path on the training machine
    content["torch_dtype"] = content.get("dtype")
    add_old_rope(content)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Write it as a Llava's is written, but for what belongs to a processor of pictures."""
    chat_template = tokenizer.chat_template
    write_tokenizer(folder, tokenizer, chat_template or "")
    if not chat_template:
        (folder / "chat_template.jinja").unlink()
    path = folder / "tokenizer_config.json"
    content = read_json(path)
    content.pop("processor_class", None)
    content["model_input_names"] = ["input_ids", "attention_mask"]  # transformers 4 adds a third
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
