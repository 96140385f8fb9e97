"""``python -m llava_sea.eval CHECKPOINT...``: the eight benchmarks and their table.

Under ``python -m llava_sea.train.launch --module llava_sea.eval`` (or torchrun) the processes share
the questions.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from llava_sea.errors import run_command
from llava_sea.eval.flags import parse


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = parse(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    if os.environ.get("RANK", "0") != "0":
        logging.getLogger().setLevel(logging.ERROR)  # it would say the same once more

    from transformers.utils import logging as hf_logging

    from llava_sea.eval.evaluate import evaluate
    from llava_sea.eval.processes import Processes

    hf_logging.disable_progress_bar()
    processes = Processes.start()
    try:
        evaluate(args, processes)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        processes.stop()


if __name__ == "__main__":
    run_command(main)
