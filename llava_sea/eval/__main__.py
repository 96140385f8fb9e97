"""``python -m llava_sea.eval CHECKPOINT...``: the eight benchmarks and their table.

Under ``python -m llava_sea.train.launch --module llava_sea.eval`` (or torchrun) the processes share
the questions.
"""

from __future__ import annotations

from collections.abc import Sequence

from llava_sea.errors import run_command
from llava_sea.eval.command import run_shared
from llava_sea.eval.flags import parse


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = parse(arguments)  # first: --help must not wait for torch

    from llava_sea.eval.evaluate import evaluate

    run_shared(lambda processes: evaluate(args, processes))


if __name__ == "__main__":
    run_command(main)
