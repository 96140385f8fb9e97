"""The tokenizer of a checkpoint, as training has it: ``<image>`` is text like any other.

A written checkpoint has a token ``<image>``. In training the picture's places travel as a mask, and
a record's own text may hold the word, so the token is taken out again; all other ids stay.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from llava_sea.constants import IMAGE_TOKEN
from llava_sea.errors import UserError, naming
from llava_sea.model.builder import load_tokenizer
from llava_sea.model.load_weights import read_json

_HIDDEN = "<|former {}|>"
"""What the token is called if taking it out would move the ids of tokens after it."""
_WEIGHTS = (".bin", ".safetensors", ".pt", ".pth")


def load_training_tokenizer(
    path: str,
    *,
    model_max_length: int | None = None,
    model_type: str | None = None,
    cache_dir: str | None = None,
) -> PreTrainedTokenizerBase:
    """Load a tokenizer without the token ``<image>``; its settings are `builder.load_tokenizer`'s.

    Args:
        path: folder or hub id.
        model_max_length: None keeps what the tokenizer says.
        model_type: of the LLM, for a folder whose config.json is LLaVA's: transformers chooses the
            tokenizer's class by it, and "llava" there is not transformers' llava.
        cache_dir: where hub files are cached.

    Raises:
        UserError: if there is no tokenizer.
    """
    if model_type:
        with tempfile.TemporaryDirectory() as folder:
            _copy_tokenizer(Path(path), Path(folder), model_type)
            try:
                result = load_training_tokenizer(folder, model_max_length=model_max_length)
            except UserError as error:
                raise UserError(str(error).replace(folder, path)) from None
        result.name_or_path = path
        return result
    tokenizer: Any = load_tokenizer(path, model_max_length=model_max_length, cache_dir=cache_dir)
    if IMAGE_TOKEN not in tokenizer.get_added_vocab():
        return tokenizer
    if not tokenizer.is_fast:
        raise UserError(f"{path}: {type(tokenizer).__name__} is no fast tokenizer; use a fast one")
    legacy = getattr(tokenizer, "legacy", None)
    with tempfile.TemporaryDirectory() as folder, naming(Path(folder)):
        tokenizer.save_pretrained(folder)
        without_image_token(Path(folder))
        if legacy is not None:
            keep_legacy(Path(folder), bool(legacy))
        result = load_tokenizer(folder, model_max_length=int(tokenizer.model_max_length))
    result.name_or_path = path
    return result


def _copy_tokenizer(source: Path, target: Path, model_type: str) -> None:
    """Copy all but weights and config.json, and write one that is the LLM's."""
    for path in source.iterdir():
        if path.is_file() and path.name != "config.json" and path.suffix not in _WEIGHTS:
            shutil.copyfile(path, target / path.name)
    (target / "config.json").write_text(json.dumps({"model_type": model_type}))


def without_image_token(folder: Path) -> None:
    """Take the token out of a saved tokenizer's files."""
    path = folder / "tokenizer.json"
    content = read_json(path)
    entry = next(t for t in content["added_tokens"] if t["content"] == IMAGE_TOKEN)
    if entry["id"] == max(token["id"] for token in content["added_tokens"]):
        content["added_tokens"].remove(entry)
    else:
        entry["content"] = _HIDDEN.format("image")
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(_forget(read_json(path)), ensure_ascii=False), encoding="utf-8")


def _forget(value: Any) -> Any:
    """Drop every entry of a tokenizer's settings that is, or describes, ``<image>``."""

    def is_it(entry: Any) -> bool:
        return entry == IMAGE_TOKEN or (isinstance(entry, dict) and _names_it(entry))

    if isinstance(value, dict):
        return {key: _forget(entry) for key, entry in value.items() if not is_it(entry)}
    if isinstance(value, list):
        return [_forget(entry) for entry in value if not is_it(entry)]
    return value


def _names_it(entry: dict[str, Any]) -> bool:
    return bool(entry.get("content") == IMAGE_TOKEN)


def keep_legacy(folder: Path, legacy: bool) -> None:
    """Write down `legacy`: transformers 5.23 leaves it out and then reads False.

    It decides whether SentencePiece puts a space before text that follows a special token.
    """
    path = folder / "tokenizer_config.json"
    content = read_json(path) | {"legacy": legacy}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
