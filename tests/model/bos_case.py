"""A case whose tokenizer puts BOS before a text, as Vicuna's and Llama's do."""

from __future__ import annotations

import json
from types import SimpleNamespace

from llava_sea.model.builder import load_tokenizer


def with_bos(case: SimpleNamespace) -> SimpleNamespace:
    """Let a case's tokenizer, and the one in its LLM's folder, begin texts with BOS."""
    path = case.llm / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"add_bos_token": True}))
    case.tokenizer = load_tokenizer(str(case.llm), model_max_length=900)
    assert case.tokenizer("a").input_ids[0] == 1
    return case
