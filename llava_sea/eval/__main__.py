"""``python -m llava_sea.eval CHECKPOINT...``: the eight benchmarks and their table.

Under ``python -m llava_sea.train.launch --module llava_sea.eval`` (or torchrun) the processes share
the questions.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from llava_sea.errors import run_command
from llava_sea.eval.answer import SHARED_FLAGS, run_shared
from llava_sea.ranges import check_ranges


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the flags; each may be spelled with - or _.

    Raises:
        UserError: if a number is out of range.
    """
    parser = argparse.ArgumentParser(
        "python -m llava_sea.eval",
        description="Answer and score the eight benchmarks; print one table.",
        allow_abbrev=False,
    )

    def add(name: str, **options: object) -> None:
        names = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
        parser.add_argument(*names, **options)  # type: ignore[arg-type]

    data = Path("playground/data/eval")
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="folder or hub id")
    add("data", type=Path, default=data, help="LLaVA's eval folder (%(default)s)")
    add("only", help="benchmarks or tasks, comma-separated, e.g. pope,vqav2-val2014")
    add("baseline", help="one of the checkpoints: gains of the others over it")
    add("output_dir", type=Path, help="gets a folder for each checkpoint; CHECKPOINT/eval if not")
    add("server_scores", type=Path, help='JSON: {"CHECKPOINT": {"vqav2-test-dev2015": 78.5}}')
    add("judge", choices=("local",), help="local: MM-Vet by words found, not by an LLM")
    add("judge_url", help="OpenAI-compatible endpoint that judges MM-Vet; its key: OPENAI_API_KEY")
    add("judge_model", help="the judge's model, e.g. gpt-4-0613")
    for name, options in SHARED_FLAGS.items():
        add(name, **options)
    add("local_rank", type=int, help=argparse.SUPPRESS)  # deepspeed passes it
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
