"""``python -m llava_sea.model.export_lmms``: a checkpoint written for lmms-eval's ``llava_hf``.

The same as `llava_sea.model.export` writes, but for two things in the tokenizer that lmms-eval
0.7.3 needs. It tokenises the chat template's text, which begins with BOS, and lets the tokenizer
put another BOS before it: here the tokenizer puts none. It ends an answer at the tokenizer's EOS
alone: here that is the end token of the training's template (Phi-3: ``<|end|>``).

Limits: for lmms-eval alone; to train, chat or export again take the checkpoint it came from. The
answers of a stage-1 checkpoint (template ``plain``) end at the LLM's own EOS, not at a newline.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_sea.conversation import get_template
from llava_sea.errors import run_command
from llava_sea.files import write_atomically
from llava_sea.model.export import export
from llava_sea.model.export_flags import claimed, parser
from llava_sea.terminal import log_to, say


def fit_tokenizer(folder: Path) -> str:
    """Make an exported checkpoint's tokenizer put no BOS and end where the template does.

    Args:
        folder: what `write_llava` wrote; its tokenizer files are replaced.

    Returns:
        The token that ends an answer now.
    """
    from llava_sea.model.load_sentencepiece import auto_tokenizer
    from llava_sea.model.load_weights import read_json

    template = get_template(read_json(folder / "config.json")["conversation_template"])
    config = read_json(folder / "tokenizer_config.json") | {
        "add_bos_token": False,
        # transformers 4 adds token_type_ids else, which no Llava takes: every answer is empty then
        "model_input_names": ["input_ids", "attention_mask"],
    }
    if not template.caption_only:
        config["eos_token"] = template.stop
    content = read_json(folder / "tokenizer.json")
    content["post_processor"] = _without_bos(content.get("post_processor"))
    _write(folder / "tokenizer_config.json", config, indent=2)
    _write(folder / "tokenizer.json", content)

    tokenizer = auto_tokenizer(str(folder))
    assert tokenizer("a").input_ids == tokenizer("a", add_special_tokens=False).input_ids
    assert template.caption_only or tokenizer.eos_token == template.stop
    return str(tokenizer.eos_token)


def _without_bos(processor: dict[str, Any] | None) -> dict[str, Any] | None:
    """Drop what puts special tokens around a text; what else a sequence does stays."""
    if processor is None or processor["type"] == "TemplateProcessing":
        return None
    if processor["type"] == "Sequence":
        parts = [part for part in map(_without_bos, processor["processors"]) if part]
        return processor | {"processors": parts} if parts else None
    return processor


def _write(path: Path, content: dict[str, Any], indent: int | None = None) -> None:
    write_atomically(path, json.dumps(content, indent=indent, ensure_ascii=False).encode())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    log_to(sys.stdout)
    logging.getLogger("llava_sea").setLevel(logging.INFO)
    args = parser("python -m llava_sea.model.export_lmms", __doc__).parse_args(arguments)
    export(args, "export_lmms")
    with claimed(args, "export_lmms") as output:
        end = fit_tokenizer(output)
    say(
        f"for lmms-eval alone: no BOS from the tokenizer, answers end at {end}\n"
        f"  lmms_eval --model llava_hf --model_args pretrained={output},device_map=auto ..."
    )


if __name__ == "__main__":
    run_command(main)
