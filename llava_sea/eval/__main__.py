"""``python -m llava_sea.eval CHECKPOINT...``: the eight benchmarks and their table.

Under ``python -m llava_sea.train.launch --module llava_sea.eval`` (or torchrun) the processes share
the questions.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_sea.errors import run_command
from llava_sea.eval.answer import SHARED_FLAGS, add_flag, run_shared
from llava_sea.ranges import check_ranges


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        "python -m llava_sea.eval",
        description="Answer and score the eight benchmarks; print one table.",
        allow_abbrev=False,
    )

    def add(name: str, text: str, **options: Any) -> None:
        add_flag(parser, name, help=text, **options)

    data = Path("playground/data/eval")
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="folder or hub id")
    add("data", "LLaVA's eval folder (%(default)s)", type=Path, default=data)
    add("only", "benchmarks or tasks, comma-separated, e.g. pope,vqav2-val2014")
    add("baseline", "one of the checkpoints: gains of the others over it")
    add("output_dir", "gets a folder for each checkpoint; CHECKPOINT/eval if not", type=Path)
    add("server_scores", 'JSON: {"CHECKPOINT": {"vqav2-test-dev2015": 78.5}}', type=Path)
    add("judge", "local: MM-Vet by words found, not by an LLM", choices=("local",))
    add("judge_url", "OpenAI-compatible endpoint that judges MM-Vet; its key: OPENAI_API_KEY")
    add("judge_model", "the judge's model, e.g. gpt-4-0613")
    for name, options in SHARED_FLAGS.items():
        add_flag(parser, name, **options)
    args = parser.parse_args(arguments)
    check_ranges("eval", args)
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = parse(arguments)  # first: --help must not wait for torch

    from llava_sea.eval.evaluate import evaluate

    run_shared(lambda processes: evaluate(args, processes))


if __name__ == "__main__":
    run_command(main)
