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
from typing import TYPE_CHECKING, Any

from llava_sea.conversation import TEMPLATES, Template, get_template
from llava_sea.errors import UserError, run_command
from llava_sea.files import only_writer, refuse_other_things, write_atomically
from llava_sea.terminal import log_to, say

if TYPE_CHECKING:
    from llava_sea.model.load import Loaded


def parser() -> argparse.ArgumentParser:
    """Return the command's flags; LLaVA's names of them, as its merge has, are known too."""
    result = argparse.ArgumentParser(
        "python -m llava_sea.model.export",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("--model_path", "--model-path", required=True, help="checkpoint: folder or hub id")
    add("--model_base", "--model-base", help="LLM or LLaVA that a projector or adapter belongs to")
    add("--vision_tower", "--vision-tower", help="instead of the tower that is recorded")
    add(
        "--version",
        help="conversation template of the training, if the checkpoint does not record one: "
        + ", ".join(TEMPLATES),
    )
    add(
        "--output_dir",
        "--output-dir",
        "--save_model_path",
        "--save-model-path",
        required=True,
        help="folder to write",
    )
    add("--format", choices=("hf", "llm", "lmms"), default="hf", help="see above (%(default)s)")
    add(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the weights; the one they are stored in if not given",
    )
    add(
        "--max_shard_size",
        "--max-shard-size",
        type=_size,
        default="5GB",
        help="of one file of weights (%(default)s)",
    )
    add("--cache_dir", "--cache-dir", help="where hub files are cached")
    return result


def _size(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d* ?[KMG]B", text.strip().upper()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write it like 5GB or 500MB")
    return text


def check_output(args: argparse.Namespace) -> None:
    """Refuse an output folder that holds anything but what the same command wrote.

    Raises:
        UserError: naming what it holds.
    """
    if not _mark(args).is_file():
        refuse_other_things(Path(args.output_dir), "--output_dir")


@contextmanager
def claimed(args: argparse.Namespace) -> Iterator[Path]:
    """Make the output folder and hold it against a second export; an empty file marks it as ours.

    Raises:
        UserError: as `check_output`, or if another process writes there.
    """
    check_output(args)
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"--output_dir {folder}: another export is writing there; wait for its end"
    with only_writer(_mark(args), busy):
        yield folder


def _mark(args: argparse.Namespace) -> Path:
    """Return the file that tells a folder of these flags from others."""
    flags = {name: str(value) for name, value in sorted(vars(args).items())}
    for name in ("model_path", "model_base", "vision_tower"):
        if os.path.isdir(flags[name]):  # however it is spelled
            flags[name] = os.path.realpath(flags[name])
    flags["output_dir"] = ""  # it may be moved
    digest = hashlib.sha256(json.dumps(flags).encode()).hexdigest()
    return Path(args.output_dir) / f".export-{digest[:16]}"


def export(args: argparse.Namespace) -> None:
    """Load and write, and say what was recognised and written."""
    import torch
    from transformers.utils import logging as hf_logging

    from llava_sea.model.load import load_llava

    hf_logging.disable_progress_bar()
    check_output(args)
    given = get_template(args.version) if args.version else None
    loaded = load_llava(
        args.model_path,
        model_base=args.model_base,
        vision_tower=args.vision_tower,
        dtype=getattr(torch, args.dtype) if args.dtype else None,
        cache_dir=args.cache_dir,
    )
    if args.format == "llm":
        _export_llm(args, loaded)
        return
    if given is None:
        if not loaded.version:
            raise UserError(
                f"{args.model_path}: does not record the conversation template of its training; "
                "give it with --version (LLaVA-1.5: v1; a stage-1 projector: plain)"
            )
        given = get_template(loaded.version)
    _export_llava(args, loaded, given)


def _export_llava(args: argparse.Namespace, loaded: Loaded, template: Template) -> None:
    from llava_sea.model.write import write_llava

    with claimed(args) as output:
        files = write_llava(
            output,
            loaded.model,
            loaded.tokenizer,
            loaded.transform,
            template,
            extra_config={"mm_vision_tower": loaded.vision_tower},
            max_shard_size=args.max_shard_size,
        )
        end = fit_tokenizer(output) if args.format == "lmms" else ""
    llm: Any = loaded.model.config.text_config
    tower: Any = loaded.model.config.vision_config
    say(
        f"{args.model_path}: {loaded.kind}\n"
        f"  LLM {llm.model_type}, vision tower {tower.model_type} "
        f"({loaded.vision_tower}), images {loaded.image_aspect_ratio}, template {template.name}, "
        f"weights in {str(loaded.model.dtype).removeprefix('torch.')}\n"
        f"written to {output}: {', '.join(files)}"
    )
    if end:
        say(
            f"for lmms-eval alone: no BOS from the tokenizer, answers end at {end}\n"
            f"  lmms_eval --model llava_hf --model_args pretrained={output},device_map=auto ..."
        )


def _export_llm(args: argparse.Namespace, loaded: Loaded) -> None:
    from llava_sea.model.write_llm import write_llm

    llm: Any = loaded.model.config.text_config
    former, dtype = int(llm.vocab_size), str(loaded.model.dtype).removeprefix("torch.")
    with claimed(args) as output:
        files = write_llm(output, loaded, version=args.version, max_shard_size=args.max_shard_size)
    embedding: Any = loaded.model.get_input_embeddings()
    rows = len(embedding.weight)
    less = f" ({former - rows} of an export for <image> taken out)" if rows < former else ""
    say(
        f"{args.model_path}: {loaded.kind}\n"
        f"  LLM {llm.model_type}, {rows:,} rows{less}, {dtype}\n"
        f"written to {output}: {', '.join(files)}"
    )


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
    config = read_json(folder / "tokenizer_config.json") | {"add_bos_token": False}
    if not template.caption_only:
        config["eos_token"] = template.stop
    content = read_json(folder / "tokenizer.json")
    content["post_processor"] = _without_bos(content.get("post_processor"))
    for name, settings, indent in (("tokenizer_config", config, 2), ("tokenizer", content, None)):
        text = json.dumps(settings, indent=indent, ensure_ascii=False)
        write_atomically(folder / f"{name}.json", text.encode())

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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    log_to(sys.stdout)
    logging.getLogger("llava_sea").setLevel(logging.INFO)
    export(parser().parse_args(arguments))


if __name__ == "__main__":
    run_command(main)
