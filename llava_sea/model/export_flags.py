"""What the export commands share: their flags, and the folder that must be empty.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llava_sea.conversation import TEMPLATES
from llava_sea.errors import UserError

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


def check_empty(folder: Path) -> None:
    """Refuse an output folder with something in it: two models in one folder are neither.

    Raises:
        UserError: naming what it holds.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output_dir {folder}: is no folder; choose another place")
    if folder.is_dir() and any(folder.iterdir()):
        from llava_sea.model.load_weights import listing

        raise UserError(
            f"--output_dir {folder}: is not empty, it holds {listing(folder)}; choose another "
            "folder or empty it"
        )
