"""The tokenizer of a checkpoint: in, as training has it, and out, as readers need it.

A written checkpoint has a token ``<image>``. In training the image's places travel as a mask, and a
record's own text may hold the word, so the token is taken out again on loading; other ids stay.
"""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from llava_sea.constants import IMAGE_TOKEN
from llava_sea.errors import UserError, naming
from llava_sea.files import read_object
from llava_sea.model.builder import load_tokenizer

_HIDDEN = "<|former image|>"
"""What the token is called if taking it out would move the ids of tokens after it."""
_NOT_WRITTEN = ("is_local", "local_files_only", "name_or_path", "processor_class")


def load_training_tokenizer(
    path: str,
    *,
    model_max_length: int | None = None,
    model_type: str | None = None,
    cache_dir: str | None = None,
) -> PreTrainedTokenizerBase:
    """Load a tokenizer without the token ``<image>``; its settings are `builder.load_tokenizer`'s.

    `model_type` is the LLM's, for a folder whose config.json is LLaVA's: transformers chooses the
    tokenizer's class by it, and "llava" there is not transformers' llava.
    """
    tokenizer: Any = load_tokenizer(
        path, model_max_length=model_max_length, model_type=model_type, cache_dir=cache_dir
    )
    if IMAGE_TOKEN not in tokenizer.get_added_vocab():
        return tokenizer
    if not tokenizer.is_fast:
        raise UserError(f"{path}: {type(tokenizer).__name__} is no fast tokenizer; use a fast one")
    legacy = getattr(tokenizer, "legacy", None)
    with tempfile.TemporaryDirectory() as folder, naming(Path(folder)):
        tokenizer.save_pretrained(folder)
        _take_image_token_out(Path(folder), legacy)
        result = load_tokenizer(folder, model_max_length=int(tokenizer.model_max_length))
    result.name_or_path = path
    return result


def _take_image_token_out(folder: Path, legacy: bool | None) -> None:
    path = folder / "tokenizer.json"
    content = read_object(path)
    entry = next(t for t in content["added_tokens"] if t["content"] == IMAGE_TOKEN)
    if entry["id"] == max(token["id"] for token in content["added_tokens"]):
        content["added_tokens"].remove(entry)
    else:
        entry["content"] = _HIDDEN
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    path = folder / "tokenizer_config.json"
    settings = _forget(read_object(path)) | _legacy(legacy)
    path.write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")


def _legacy(legacy: bool | None) -> dict[str, bool]:
    """Return the setting to write down: transformers 5.23 leaves it out and then reads False.

    It decides whether SentencePiece puts a space before text that follows a special token.
    """
    return {} if legacy is None else {"legacy": bool(legacy)}


def _forget(value: Any) -> Any:
    """Drop every entry of a tokenizer's settings that is, or describes, ``<image>``."""
    if isinstance(value, dict):
        kept = {key: entry for key, entry in value.items() if not _is_image_token(entry)}
        return {key: _forget(entry) for key, entry in kept.items()}
    if isinstance(value, list):
        return [_forget(entry) for entry in value if not _is_image_token(entry)]
    return value


def _is_image_token(entry: Any) -> bool:
    return bool((entry.get("content") if isinstance(entry, dict) else entry) == IMAGE_TOKEN)


def with_image_token(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a copy with the token ``<image>``, padding on the left as generation needs it."""
    # the class's second copy of the vocabulary is never changed (half the time with Gemma's)
    shared = [part for part in (vars(tokenizer).get(n) for n in ("_vocab", "_merges")) if part]
    written = copy.deepcopy(tokenizer, {id(part): part for part in shared})
    written.add_tokens(
        [AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True
    )
    written.padding_side = "left"
    return written


def write_tokenizer(
    folder: Path, tokenizer: Any, chat_template: str | None, processor_class: str | None = None
) -> None:
    """Write a tokenizer, so that transformers 4 reads it too, and the chat template (Jinja).

    The tokenizer's own chat template is dropped.
    """
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    content = {k: v for k, v in read_object(path).items() if k not in _NOT_WRITTEN}
    extra = content.get("extra_special_tokens")
    if isinstance(extra, list):  # transformers 4 takes a dictionary under this name only
        content["additional_special_tokens"] = content.pop("extra_special_tokens")
    if content.get("tokenizer_class") == "TokenizersBackend":  # its name before transformers 5
        content["tokenizer_class"] = "PreTrainedTokenizerFast"
    # transformers 4 puts a BOS before every text of a Llama tokenizer that does not say otherwise.
    content["add_bos_token"] = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    content["model_input_names"] = ["input_ids", "attention_mask"]  # transformers 4 adds a third
    content |= _legacy(getattr(tokenizer, "legacy", None))
    if processor_class:
        content["processor_class"] = processor_class
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if chat_template:
        (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
