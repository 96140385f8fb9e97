"""``python -m llava_sea.model.export``: any checkpoint that can be loaded, written as ``llava-hf``.

A LoRA adapter is merged into its base on the way. The flags may be spelled with - or _.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import Any

from llava_sea.conversation import get_template
from llava_sea.errors import UserError, run_command
from llava_sea.model.export_flags import check_output, claimed, parser
from llava_sea.terminal import log_to, say


def export(args: argparse.Namespace, command: str = "export") -> None:
    """Load and write, and say what was recognised and written.

    Args:
        args: of `llava_sea.model.export_flags.parser`.
        command: which one this is part of: no other one's folder is written into.
    """
    import torch
    from transformers.utils import logging as hf_logging

    from llava_sea.model.load import load_llava
    from llava_sea.model.write import write_llava

    hf_logging.disable_progress_bar()
    check_output(args, command)
    given = get_template(args.version) if args.version else None
    loaded = load_llava(
        args.model_path,
        model_base=args.model_base,
        vision_tower=args.vision_tower,
        dtype=getattr(torch, args.dtype) if args.dtype else None,
        cache_dir=args.cache_dir,
    )
    if given is None:
        if not loaded.version:
            raise UserError(
                f"{args.model_path}: does not record the conversation template of its training; "
                "give it with --version (LLaVA-1.5: v1; a stage-1 projector: plain)"
            )
        given = get_template(loaded.version)
    with claimed(args, command) as output:
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
    say(
        f"{args.model_path}: {loaded.kind}\n"
        f"  LLM {llm.model_type}, vision tower {tower.model_type} "
        f"({loaded.vision_tower}), pictures {loaded.image_aspect_ratio}, template {given.name}, "
        f"weights in {str(loaded.model.dtype).removeprefix('torch.')}\n"
        f"written to {output}: {', '.join(files)}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    log_to(sys.stdout)
    logging.getLogger("llava_sea").setLevel(logging.INFO)
    export(parser("python -m llava_sea.model.export", __doc__).parse_args(arguments))


if __name__ == "__main__":
    run_command(main)
