"""Is a recipe ready to be trained on this machine? `bash scripts/preflight.sh` starts it.

    python -m llava_sea.preflight [own flags] --stage1 TRAINING FLAGS --stage2 TRAINING FLAGS

A warm start before stage 1 is told as `--warm_start TRAINING FLAGS`; it is only timed.

One line for each thing that can go wrong, ok, warning or RED with the way out; then the verdict.
Exit status: 0 ready, 1 not ready. All that was found goes into a JSON file as well.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from llava_sea.errors import EXIT_STATUS, UserError, run_command
from llava_sea.files import check_folder, refuse_other_file
from llava_sea.ranges import check_ranges
from llava_sea.terminal import log_to


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m llava_sea.preflight",
        description="One page before the first real step: is all well, does it fit, how long.",
        epilog="Then --stage1 and training's flags, --stage2 and training's flags, or one of them.",
        allow_abbrev=False,
    )
    parser.add_argument("--num_gpus", type=int, default=1, help="processes of a run")
    parser.add_argument(
        "--gpu_memory", type=float, help="GB of a GPU, for a machine without one (default: 80)"
    )
    parser.add_argument("--label_tower", help="what the labels are mined with, if another")
    parser.add_argument("--words", help="the recipe's word list, if it is there")
    parser.add_argument("--common_words", help="frequent words to add to one that is made here")
    parser.add_argument("--preset", default="best", help="of the labels: best or paper")
    parser.add_argument("--output", type=Path, default=Path("preflight.json"), help="the JSON file")
    return parser


STAGES = {"--warm_start": 0, "--stage1": 1, "--stage2": 2}
"""Words before the flags of a training, and its number."""


def split(words: Sequence[str]) -> tuple[list[str], dict[int, list[str]]]:
    """Part the command's own flags from those of each stage."""
    own, stages = list[str](), dict[int, list[str]]()
    part = own
    for word in words:
        if word in STAGES:
            part = stages[STAGES[word]] = []
        else:
            part.append(word)
    return own, stages


def check_options(options: argparse.Namespace) -> None:
    """Refuse numbers out of range, and a place where the page cannot be written at the end.

    Raises:
        UserError: naming the flag, or the file.
    """
    check_ranges("preflight", options)
    output: Path = options.output
    check_folder(output.parent, "--output")
    refuse_other_file(output, "--output", b'"verdict"')
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=output.parent):
            reason = "it is a folder" if output.is_dir() else ""
    except OSError as error:
        reason = str(error.strerror)
    if reason:
        raise UserError(
            f"--output {output}: the page cannot be written ({reason}); name another file by PAGE="
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Fill the page; return the exit status."""
    own, stages = split(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    options = parser.parse_args(own)
    if not stages.keys() & {1, 2}:
        parser.error("--stage1 or --stage2 is needed, with the flags of a training")
    check_options(options)
    # As an exception it ends the ranks and removes the temporary folders of the line at work.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_STATUS))
    log_to(sys.stderr)
    from transformers.utils import logging as hf_logging

    from llava_sea.preflight.run import fill_page

    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    return fill_page(options, stages)


if __name__ == "__main__":
    run_command(lambda: sys.exit(main()))
