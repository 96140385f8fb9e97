"""``python -m llava_sea.eval.answer``: answer a benchmark's questions, into LLaVA's answer file.

LLaVA's flags (model_vqa_loader, model_vqa_science, model_vqa_mmbench), one command for the three.
Kill it at any moment and start it again: answers are kept. Under ``python -m
llava_sea.train.launch --module``, ``torchrun`` or ``deepspeed --module`` the processes share the
questions. ``NAME.run.json`` beside the answers says how they were made; answers that were made
otherwise are not resumed.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from llava_sea.errors import run_command
from llava_sea.processes import Processes
from llava_sea.ranges import check_range, check_ranges, whole
from llava_sea.terminal import log_to, say

SHARED_FLAGS: dict[str, dict[str, Any]] = {
    "model_base": {"help": "LLM or LLaVA that a projector or adapter belongs to"},
    "conv_mode": {"help": "conversation template; the checkpoint's, where recorded, if not given"},
    "batch_size": {"type": int, "default": 16, "help": "questions at a time (%(default)s)"},
    "device": {"help": "cuda, cuda:1, cpu, ...; cuda where it is there if not given"},
    "dtype": {
        "choices": ("auto", "float32", "bfloat16", "float16"),
        "default": "auto",
        "help": "of the weights; auto: as stored, and bfloat16 for float32 on a GPU",
    },
    "cache_dir": {"help": "where hub files are cached"},
    "local_rank": {"type": int, "help": argparse.SUPPRESS},  # deepspeed passes it
}
"""Flags of `llava_sea.eval` too, which it hands to each task."""


def add_flag(parser: argparse.ArgumentParser, name: str, **options: Any) -> None:
    """Add a flag that may be spelled with - or _."""
    parser.add_argument(*dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}")), **options)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        "python -m llava_sea.eval.answer", description=__doc__, allow_abbrev=False
    )

    def add(name: str, text: str, **options: Any) -> None:
        add_flag(parser, name, help=text, **options)

    add("model_path", "checkpoint: folder or hub id", required=True)
    add("vision_tower", "instead of the tower that is recorded")
    files = "LLaVA's jsonl, ScienceQA's JSON list or MMBench's TSV"
    add("question_file", files, required=True)
    add("image_folder", "folder of the images that the questions name")
    add("answers_file", "where the answers go", required=True)
    add("temperature", "0: always the likeliest token (%(default)s)", type=float, default=0.0)
    add("top_p", "nucleus sampling, with a temperature", type=float)
    add("num_beams", "beam search (%(default)s)", type=int, default=1)
    add("max_new_tokens", "longest answer (%(default)s)", type=int, default=128)
    add("num_chunks", "LLaVA's way to share work: parts (%(default)s)", type=int, default=1)
    add("chunk_idx", "which part, from 0; each its own answer file", type=int, default=0)
    add("single_pred_prompt", "ask for an option's letter", action="store_true")
    add("lang", "of that request (%(default)s)", choices=("en", "cn"), default="en")
    for name, options in SHARED_FLAGS.items():
        add_flag(parser, name, **options)
    args = parser.parse_args(arguments)
    check_ranges("eval.answer", args)
    check_range("chunk_idx", args.chunk_idx, whole(0, args.num_chunks - 1), "below --num_chunks")
    return args


def run_shared(work: Callable[[Processes], None]) -> None:
    """Run the work of a command that asks questions, as one of the launcher's processes."""
    # The tokenizer's own threads and ours would be in each other's way.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    log_to(sys.stderr)
    if os.environ.get("RANK", "0") != "0":
        logging.getLogger().setLevel(logging.ERROR)  # it would say the same once more

    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    processes = Processes.start()
    try:
        work(processes)
    except KeyboardInterrupt:
        say("stopped; the same command resumes from here", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        processes.stop()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = parse(arguments)  # first: --help must not wait for torch

    from llava_sea.eval.answering import answer

    run_shared(lambda processes: answer(args, processes))


if __name__ == "__main__":
    run_command(main)
