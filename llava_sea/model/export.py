"""``python -m llava_sea.model.export``: any checkpoint that can be loaded, written as ``llava-hf``.

A LoRA adapter is merged into its base on the way. The flags may be spelled with - or _.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as hf_logging

from llava_sea.conversation import TEMPLATES, get_template
from llava_sea.errors import UserError, run_command
from llava_sea.model.load import load_llava
from llava_sea.model.write import write_llava

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def parser(program: str) -> argparse.ArgumentParser:
    """Return the command line of `export` and, under LLaVA's flag names, `merge`."""
    result = argparse.ArgumentParser(program, description=__doc__, allow_abbrev=False)
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
    add("--dtype", choices=DTYPES, help="of the weights; the one they are stored in if not given")
    add("--max_shard_size", "--max-shard-size", default="5GB", help="of one file (%(default)s)")
    add("--cache_dir", "--cache-dir", help="where hub files are cached")
    return result


def export(args: argparse.Namespace) -> None:
    """Load and write, and say what was recognised and written."""
    output = Path(args.output_dir)
    if output.exists() and Path(args.model_path).exists() and output.samefile(args.model_path):
        raise UserError(f"--output_dir {output}: is the checkpoint itself; choose another folder")
    given = get_template(args.version) if args.version else None
    loaded = load_llava(
        args.model_path,
        model_base=args.model_base,
        vision_tower=args.vision_tower,
        dtype=DTYPES[args.dtype] if args.dtype else None,
        cache_dir=args.cache_dir,
    )
    if given is None:
        if not loaded.version:
            raise UserError(
                f"{args.model_path}: does not record the conversation template of its training; "
                "give it with --version (LLaVA-1.5: v1; a stage-1 projector: plain)"
            )
        given = get_template(loaded.version)
    files = write_llava(
        output,
        loaded.model,
        loaded.tokenizer,
        loaded.transform,
        given,
        extra_config={"mm_vision_tower": loaded.vision_tower},
        max_shard_size=args.max_shard_size,
    )
    llm: Any = loaded.model.config.text_config
    tower: Any = loaded.model.config.vision_config
    print(
        f"{args.model_path}: {loaded.kind}\n"
        f"  LLM {llm.model_type}, vision tower {tower.model_type} "
        f"({loaded.vision_tower}), pictures {loaded.image_aspect_ratio}, template {given.name}, "
        f"weights in {str(loaded.model.dtype).removeprefix('torch.')}\n"
        f"written to {output}: {', '.join(files)}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    logging.basicConfig(format="%(message)s", stream=sys.stdout, level=logging.WARNING)
    logging.getLogger("llava_sea").setLevel(logging.INFO)
    hf_logging.disable_progress_bar()
    export(parser("python -m llava_sea.model.export").parse_args(arguments))


if __name__ == "__main__":
    run_command(main)
