"""``python -m llava_sea.model.export``: any checkpoint that can be loaded, written for others.

A LoRA adapter is merged into its base on the way. ``--format hf`` (the default) is ``llava-hf``.

``--format llm`` is the LLM alone, for benchmarks of language: a folder that `AutoModelForCausalLM`
and `AutoTokenizer` open.

``--format lmms`` is ``hf`` but for two things in the tokenizer that ``llava_hf`` of lmms-eval 0.7.3
needs. It tokenises the chat template's text, which begins with BOS, and lets the tokenizer put
another BOS before it: here the tokenizer puts none. It ends an answer at the tokenizer's EOS alone:
here that is the end token of the training's template (Phi-3: ``<|end|>``). For lmms-eval alone; the
answers of a stage-1 checkpoint (template ``plain``) end at the LLM's own EOS, not at a newline.

The flags may be spelled with - or _. Nothing heavy is imported before they are read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llava_sea.errors import UserError, run_command
from llava_sea.files import only_writer, read_object, refuse_other_things, write_atomically
from llava_sea.templates import AUTO, TEMPLATES, check_version, get_template
from llava_sea.terminal import log_to, say

logger = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """Return the command's flags; LLaVA's names of them, as its merge has, are known too."""
    result = argparse.ArgumentParser(
        "python -m llava_sea.model.export",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    output = ("--output_dir", "--output-dir", "--save_model_path", "--save-model-path")
    templates = ", ".join([*TEMPLATES, AUTO])
    add("--model_path", "--model-path", required=True, help="checkpoint: folder or hub id")
    add("--model_base", "--model-base", help="LLM or LLaVA that a projector or adapter belongs to")
    add("--vision_tower", "--vision-tower", help="instead of the tower that is recorded")
    add("--version", help=f"template of the training, if none is recorded: {templates}")
    add(*output, required=True, help="folder to write")
    add("--format", choices=("hf", "llm", "lmms"), default="hf", help="see above (%(default)s)")
    dtypes = ("float32", "bfloat16", "float16")
    add("--dtype", choices=dtypes, help="of the weights; as they are stored if not given")
    sizes = ("--max_shard_size", "--max-shard-size")
    add(*sizes, type=_size, default="5GB", help="of one file of weights (%(default)s)")
    add("--cache_dir", "--cache-dir", help="where hub files are cached")
    return result


def _size(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d* ?[KMG]B", text.strip().upper()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write it like 5GB or 500MB")
    return text


def _mark(args: argparse.Namespace) -> Path:
    """Return the file that marks the output folder as one that these flags have written.

    Raises:
        UserError: naming what the folder holds, if there is no such file.
    """
    flags = {name: str(value) for name, value in sorted(vars(args).items())}
    for name in ("model_path", "model_base", "vision_tower"):
        if os.path.isdir(flags[name]):  # however it is spelled
            flags[name] = os.path.realpath(flags[name])
    flags["output_dir"] = ""  # it may be moved
    digest = hashlib.sha256(json.dumps(flags).encode()).hexdigest()
    mark = Path(args.output_dir) / f".export-{digest[:16]}"
    if not mark.is_file():
        refuse_other_things(mark.parent, "--output_dir")
    return mark


@contextmanager
def _claimed(args: argparse.Namespace) -> Iterator[Path]:
    """Make the output folder and hold it against a second export."""
    mark = _mark(args)
    mark.parent.mkdir(parents=True, exist_ok=True)
    busy = f"--output_dir {mark.parent}: another export is writing there; wait for its end"
    with only_writer(mark, busy):
        yield mark.parent


def export(args: argparse.Namespace) -> None:
    """Load and write, and say what was recognised and written."""
    import torch
    from transformers.utils import logging as hf_logging

    from llava_sea.model.load import load_llava
    from llava_sea.model.towers import not_stock
    from llava_sea.model.write import write_llava
    from llava_sea.model.write_llm import llm_rows, write_llm

    hf_logging.disable_progress_bar()
    _mark(args)
    if args.version:
        check_version(args.version)
    loaded = load_llava(
        args.model_path,
        model_base=args.model_base,
        vision_tower=args.vision_tower,
        dtype=getattr(torch, args.dtype) if args.dtype else None,
        cache_dir=args.cache_dir,
    )
    version: str = args.version or loaded.version or ""
    if args.format != "llm" and not version:
        raise UserError(
            f"{args.model_path}: does not record the conversation template of its training; give "
            "it with --version (LLaVA-1.5: v1; a stage-1 projector: plain)"
        )
    if (reason := not_stock(loaded.model.config)) and args.format == "lmms":
        raise UserError(f"{args.model_path}: {reason}")
    if reason and args.format == "hf":
        logger.warning("%s: %s", args.model_path, reason)
    llm: Any = loaded.model.config.text_config
    tower: Any = loaded.model.config.vision_config
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    rows, own = int(llm.vocab_size), llm_rows(loaded.model)
    with _claimed(args) as output:
        if args.format == "llm":
            files = write_llm(output, loaded, version, args.max_shard_size)
            less = f" ({rows - own} of an export for <image> taken out)" if own < rows else ""
            about = f"{own:,} rows{less}, {dtype}"
        else:
            files = write_llava(
                output,
                loaded.model,
                loaded.tokenizer,
                loaded.transform,
                get_template(version, loaded.tokenizer),
                extra_config={"mm_vision_tower": loaded.vision_tower},
                max_shard_size=args.max_shard_size,
            )
            about = (
                f"vision tower {tower.model_type} ({loaded.vision_tower}), images "
                f"{loaded.image_aspect_ratio}, template {version}, weights in {dtype}"
            )
        end = fit_tokenizer(output) if args.format == "lmms" else ""
    say(
        f"{args.model_path}: {loaded.kind}\n  LLM {llm.model_type}, {about}\n"
        f"written to {output}: {', '.join(files)}"
    )
    if end:
        say(
            f"for lmms-eval alone: no BOS from the tokenizer, answers end at {end}\n"
            f"  lmms_eval --model llava_hf --model_args pretrained={output},device_map=auto ..."
        )


def fit_tokenizer(folder: Path) -> str:
    """Make an exported checkpoint's tokenizer put no BOS and end where the template does.

    Its files are replaced. Returns the token that ends an answer now.
    """
    from llava_sea.model.load_sentencepiece import auto_tokenizer

    version = read_object(folder / "config.json")["conversation_template"]
    template = get_template(version, auto_tokenizer(str(folder)))
    config = read_object(folder / "tokenizer_config.json") | {"add_bos_token": False}
    if not template.caption_only:
        config["eos_token"] = template.stop
    content = read_object(folder / "tokenizer.json")
    content["post_processor"] = _without_bos(content.get("post_processor"))
    for name, settings, indent in (("tokenizer_config", config, 2), ("tokenizer", content, None)):
        text = json.dumps(settings, indent=indent, ensure_ascii=False)
        write_atomically(folder / f"{name}.json", text.encode())
    return str(auto_tokenizer(str(folder)).eos_token)


def _without_bos(processor: dict[str, Any] | None) -> dict[str, Any] | None:
    """Drop what puts special tokens around a text; what else a sequence does stays."""
    if processor is None or processor["type"] == "TemplateProcessing":
        return None
    if processor["type"] == "Sequence":
        parts = [part for part in map(_without_bos, processor["processors"]) if part]
        return processor | {"processors": parts} if parts else None
    return processor


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    log_to(sys.stdout)
    logging.getLogger("llava_sea").setLevel(logging.INFO)
    export(parser().parse_args(arguments))


if __name__ == "__main__":
    run_command(main)
