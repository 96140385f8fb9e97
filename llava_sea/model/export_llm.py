"""``python -m llava_sea.model.export_llm``: the LLM of a checkpoint alone, as transformers has it.

For benchmarks of language (MMLU): any checkpoint that `load_llava` reads, a LoRA adapter merged
into it, becomes a folder that `AutoModelForCausalLM` and `AutoTokenizer` open. Tokens and weights
are the LLM's; what `llava_sea.model.export` added for the token ``<image>`` is taken out again.

Limits: rows that others appended and filled (``llava-hf/llava-1.5-7b-hf`` has 32,064 for Vicuna's
32,000) cannot be told from the LLM's own and stay.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import Any

from llava_sea.conversation import get_template
from llava_sea.errors import run_command
from llava_sea.model.export_flags import check_output, claimed, parser
from llava_sea.terminal import log_to, say


def export_llm(args: argparse.Namespace) -> None:
    """Load and write, and say what was recognised and written."""
    import torch

    from llava_sea.model.load import load_llava
    from llava_sea.model.load_weights import read_json
    from llava_sea.model.write_llm import write_llm

    check_output(args, "export_llm")
    if args.version:
        get_template(args.version)
    loaded = load_llava(
        args.model_path,
        model_base=args.model_base,
        vision_tower=args.vision_tower,
        dtype=getattr(torch, args.dtype) if args.dtype else None,
        cache_dir=args.cache_dir,
    )
    embedding: Any = loaded.model.get_input_embeddings()
    former = len(embedding.weight)
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    with claimed(args, "export_llm") as output:
        files = write_llm(output, loaded, version=args.version, max_shard_size=args.max_shard_size)
    rows = read_json(output / "config.json")["vocab_size"]
    less = f" ({former - rows} of an export for <image> taken out)" if rows < former else ""
    llm: Any = loaded.model.config.text_config
    say(
        f"{args.model_path}: {loaded.kind}\n"
        f"  LLM {llm.model_type}, {rows:,} rows{less}, {dtype}\n"
        f"written to {args.output_dir}: {', '.join(files)}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    log_to(sys.stdout)
    logging.getLogger("llava_sea").setLevel(logging.INFO)
    export_llm(parser("python -m llava_sea.model.export_llm", __doc__).parse_args(arguments))


if __name__ == "__main__":
    run_command(main)
