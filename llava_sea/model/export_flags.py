"""What the export commands share: their flags, and the folder that is theirs alone.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llava_sea.conversation import TEMPLATES
from llava_sea.files import only_writer, refuse_other_things

DTYPES = ("float32", "bfloat16", "float16")


def parser(program: str, description: str | None) -> argparse.ArgumentParser:
    """Return the flags of an export; LLaVA's names of them, as its merge has, are known too."""
    result = argparse.ArgumentParser(program, description=description, allow_abbrev=False)
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


def check_output(args: argparse.Namespace, command: str) -> None:
    """Refuse an output folder that holds anything but what the same command wrote.

    Raises:
        UserError: naming what it holds.
    """
    if not _mark(args, command).is_file():
        refuse_other_things(Path(args.output_dir), "--output_dir")


@contextmanager
def claimed(args: argparse.Namespace, command: str) -> Iterator[Path]:
    """Make the output folder and hold it against a second export; an empty file marks it as ours.

    Raises:
        UserError: as `check_output`, or if another process writes there.
    """
    check_output(args, command)
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"--output_dir {folder}: another export is writing there; wait for its end"
    with only_writer(_mark(args, command), busy):
        yield folder


def _mark(args: argparse.Namespace, command: str) -> Path:
    """Return the file that tells a folder of this command and these flags from others."""
    flags = {name: str(value) for name, value in sorted(vars(args).items())}
    for name in ("model_path", "model_base", "vision_tower"):
        if os.path.isdir(flags[name]):  # however it is spelled
            flags[name] = os.path.realpath(flags[name])
    flags["output_dir"] = ""  # it may be moved
    digest = hashlib.sha256(json.dumps([command, flags]).encode()).hexdigest()
    return Path(args.output_dir) / f".export-{digest[:16]}"
