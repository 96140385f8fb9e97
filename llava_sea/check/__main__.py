"""Check data before a run: `python -m llava_sea.check <the training flags>`.

Every problem of every record is found, not the first; warnings are what training accepts but its
owner may not have meant. Exit status: 0 clean, 1 problems, 2 wrong flags.

Limits: what only a run shows (memory, loss) stays unseen, but for the loss of each record with
``--losses``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from llava_sea.errors import UserError, run_command
from llava_sea.files import refuse_other_file
from llava_sea.ranges import check_ranges
from llava_sea.terminal import log_to


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. See --help for all flags")


def _own_flags() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m llava_sea.check",
        description="Check training data: every problem of every record, before a run.",
        epilog="All other flags are those of training, unchanged (`python -m llava_sea.train.train "
        "--help`). Needed: --model_name_or_path, --vision_tower, --data_path, --image_folder; "
        "read as well: --version, --image_aspect_ratio, --model_max_length, --sea_labels, "
        "--sea_eval_data and, for --losses, --pretrain_mm_mlp_adapter, "
        "--per_device_eval_batch_size. Exit status: 0 clean, 1 problems, 2 wrong flags.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--show",
        type=int,
        nargs="+",
        metavar="N",
        help="only print record N (from 0) as the model will see it: image tokens folded, "
        "supervised tokens marked +, token ids",
    )
    parser.add_argument(
        "--losses",
        metavar="FILE",
        help="if every record can be read, write each one's mean LM loss in eval mode with the "
        "given model and projector: JSON lines of id, index, loss, num_tokens, supervised_ids",
    )
    parser.add_argument(
        "--max_problems",
        type=int,
        default=1000,
        metavar="N",
        help="print at most N problems of a kind (all are counted); 0 for all (default: 1000)",
    )
    parser.add_argument(
        "--num_workers",
        type=int,
        metavar="N",
        help="processes; 0 for none (default: one a core, none for little data)",
    )
    parser.add_argument("--no_images", action="store_true", help="do not open the images")
    for engine in ("--deepspeed", "--local_rank", "--local-rank"):  # the checker has no engine
        parser.add_argument(engine, help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Check, show, or compute losses, as the flags say; return the exit status."""
    own, training_flags = _own_flags().parse_known_args(argv)
    check_ranges("check", own)
    if own.losses and own.show:
        raise UserError("--show only prints a record; leave --losses to another call")
    folder = os.path.dirname(own.losses or "") or "."
    if own.losses and (os.path.isdir(own.losses) or not os.access(folder, os.W_OK)):
        raise UserError(
            f"--losses {own.losses}: cannot be written; name a file in a folder of yours"
        )
    if own.losses:
        refuse_other_file(Path(own.losses), "--losses", b'"supervised_ids": ')
    log_to(sys.stderr)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the processes are forked

    # --help must not wait for torch
    from transformers.utils import logging as hf_logging

    from llava_sea.check.findings import Findings, open_console
    from llava_sea.check.losses import write_losses
    from llava_sea.check.records import check_data, check_paths
    from llava_sea.check.setup import load_setup
    from llava_sea.check.show import show_records
    from llava_sea.train.parse import parse_args

    hf_logging.set_verbosity_warning()
    hf_logging.disable_progress_bar()
    arguments = parse_args(training_flags)
    check_paths(arguments, open_images=not own.no_images)
    setup = load_setup(arguments)
    console = open_console()
    if own.show:
        return show_records(own.show, setup, console)
    findings = Findings(console, own.max_problems)
    checked = check_data(setup, findings, not own.no_images, own.num_workers)
    if own.losses and not findings.num_unreadable:
        write_losses(own.losses, setup, checked, findings, own.num_workers or 0)
        console.print(f"the loss of each of {len(checked.records)} records: {own.losses}")
    elif own.losses:
        console.print(f"--losses {own.losses} is not written: fix the problems first")
    findings.summary()
    return int(findings.num_problems > 0)


if __name__ == "__main__":
    run_command(lambda: sys.exit(main()))
