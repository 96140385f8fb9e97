"""The miniature data set on disk, in LLaVA's layout (``python -m playground.generate``).

Writes ``<output>/mini/``: picture files, ``pretrain.json`` and ``heldout.json`` (records as in
LLaVA-Pretrain), ``finetune.json`` and ``heldout_questions.json`` (conversations, see
`playground.instructions`), ``truth.json`` (the true words of each patch), ``common_words.txt``
(words that no picture shows, to be added to the corpus's own) and ``manifest.json``. Each picture
depends on the seed, its split and its number alone. The folder appears whole or not at all; when
it is already there with the same parameters, nothing is done.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from llava_sea.errors import UserError, run_command
from llava_sea.progress import Progress
from playground.captions import write_caption
from playground.distractors import distractors
from playground.instructions import (
    INSTRUCTIONS,
    Shown,
    heldout_questions,
    instruction_records,
)
from playground.render import render_scene
from playground.scene import sample_scene
from playground.truth import object_patches, patch_words
from playground.world import GRID, Split

DEFAULT_OUTPUT = Path(__file__).parent / "data"

SPLITS: tuple[tuple[str, Split], ...] = (("train", "train"), ("heldout", "dev"))
"""Folder of the pictures and the scenes' split. Test scenes are in the benchmarks alone."""

PNG_SHARE = 0.2
JPEG_QUALITY = 95

WORLD_FILES = (
    "backgrounds.py",
    "benchmarks/absent.py",
    "benchmarks/annotators.py",
    "benchmarks/choices.py",
    "benchmarks/composed.py",
    "benchmarks/open_questions.py",
    "benchmarks/prompts.py",
    "benchmarks/told.py",
    "benchmarks/training_forms.py",
    "benchmarks/written.py",
    "captions.py",
    "distractors.py",
    "documents.py",
    "generate.py",
    "instructions.py",
    "questions.py",
    "render.py",
    "scene.py",
    "shapes.py",
    "signs.py",
    "truth.py",
    "vocabulary.py",
    "world.py",
)
"""The sources that the data depend on; their hash is the generator's version."""


@dataclass(frozen=True)
class Parameters:
    """What decides the data set: the sizes, the seed and the generator's version."""

    num_train: int
    num_heldout: int
    seed: int
    version: str


def generator_version() -> str:
    """Return a hash of the sources that the data depend on."""
    digest = hashlib.sha256()
    for name in WORLD_FILES:
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()[:16]


def _encode(rng: random.Random, picture: Image.Image) -> tuple[bytes, str]:
    """Return a picture file's bytes and its suffix."""
    buffer = io.BytesIO()
    if rng.random() < PNG_SHARE:
        picture.save(buffer, "PNG")
        return buffer.getvalue(), ".png"
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue(), ".jpg"


def _make_record(rng: random.Random, identity: str, image: str, caption: str) -> dict[str, Any]:
    instruction = rng.choice(INSTRUCTIONS)
    first = rng.random() < 0.5
    human = f"<image>\n{instruction}" if first else f"{instruction}\n<image>"
    turns = [{"from": "human", "value": human}, {"from": "gpt", "value": caption}]
    return {"id": identity, "image": image, "conversations": turns}


class TruthTable:
    """Collects the true words of each picture's patches; equal sets are stored once."""

    def __init__(self) -> None:
        self.index_of: dict[tuple[str, ...], int] = {}
        self.images: dict[str, list[int]] = {}
        self.objects: dict[str, str] = {}

    def add(self, image: str, words: list[tuple[str, ...]], objects: str) -> None:
        """Take in a picture: the true words of its patches, and which are objects."""
        self.images[image] = [self.index_of.setdefault(w, len(self.index_of)) for w in words]
        self.objects[image] = objects

    def as_json(self) -> dict[str, Any]:
        """Return what a truth file holds."""
        return {
            "grid": list(GRID),
            "words_sets": [list(words) for words in self.index_of],
            "images": self.images,
            "objects": self.objects,
        }


def _write_json(path: Path, content: object, indent: int | None = None) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=indent) + "\n", "utf-8")


def write_world(folder: Path, parameters: Parameters) -> None:
    """Write all pictures and JSON files into an existing empty folder."""
    truth = TruthTable()
    total = parameters.num_train + parameters.num_heldout
    progress = Progress("pictures", total, every=30.0)
    shown: dict[str, list[Shown]] = {name: [] for name, _ in SPLITS}
    for name, split in SPLITS:
        records = []
        count = parameters.num_train if name == "train" else parameters.num_heldout
        for index in range(count):
            rng = random.Random(f"{parameters.seed}/{name}/{index}")
            scene = sample_scene(rng, split)
            caption = write_caption(rng, scene)
            content, suffix = _encode(rng, Image.fromarray(render_scene(scene)))
            image = f"{name}/{index // 1000:03d}/{index:06d}{suffix}"
            path = folder / "images" / image
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            records.append(_make_record(rng, f"{name}-{index:06d}", image, caption.text))
            truth.add(image, patch_words(scene), object_patches(scene))
            shown[name].append(Shown(image, scene))
            progress.update()
        _write_json(folder / ("pretrain.json" if name == "train" else f"{name}.json"), records, 1)
    progress.close()
    asked = heldout_questions(shown["heldout"], parameters.seed)
    _write_json(folder / "finetune.json", instruction_records(shown["train"], parameters.seed), 1)
    _write_json(folder / "heldout_questions.json", asked, 1)
    _write_json(folder / "truth.json", truth.as_json())
    (folder / "common_words.txt").write_text("\n".join(distractors()) + "\n", "utf-8")
    _write_json(folder / "manifest.json", asdict(parameters), 1)


def is_current(folder: Path, parameters: Parameters) -> bool:
    """Whether the folder holds a finished data set with these parameters."""
    try:
        found = json.loads((folder / "manifest.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    names = (
        "pretrain.json",
        "heldout.json",
        "finetune.json",
        "heldout_questions.json",
        "truth.json",
        "common_words.txt",
    )
    return found == asdict(parameters) and all((folder / name).is_file() for name in names)


def _remove_leftovers(output: Path) -> None:
    """Remove what killed runs left; folders younger than an hour may belong to a living one."""
    for leftover in output.glob(".mini-*"):
        if time.time() - leftover.stat().st_mtime > 3600:
            shutil.rmtree(leftover, ignore_errors=True)


def generate(
    output: Path = DEFAULT_OUTPUT, *, num_train: int = 3000, num_heldout: int = 200, seed: int = 0
) -> Path:
    """Make sure that ``output/mini`` holds the data set, and return that folder.

    Args:
        output: folder that gets the subfolder ``mini``.
        num_train: pictures for training (scenes of the split "train").
        num_heldout: held-out pictures (scenes of the split "dev").
        seed: decides every picture and caption.

    Raises:
        UserError: a size is below 1, or ``output/mini`` is something that this did not write.
    """
    for flag, value in (("--num_train", num_train), ("--num_heldout", num_heldout)):
        if value < 1:
            raise UserError(f"{flag} {value}: must be at least 1")
    parameters = Parameters(num_train, num_heldout, seed, generator_version())
    folder = output / "mini"
    if is_current(folder, parameters):
        return folder
    if folder.exists() and any(folder.iterdir()) and not (folder / "manifest.json").is_file():
        raise UserError(
            f"{folder} exists, is not empty and has no manifest.json, so this command did not "
            "write it; move it away or give another --output"
        )
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: is a file; name the folder that gets mini/")
    output.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(output)
    work = Path(tempfile.mkdtemp(prefix=".mini-", dir=output))
    work.chmod(0o755)
    try:
        write_world(work, parameters)
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=".mini-old-", dir=output))
            os.replace(folder, old / "mini")
            os.replace(work, folder)
            shutil.rmtree(old)
        else:
            os.replace(work, folder)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return folder


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``python -m playground.generate``."""
    parser = argparse.ArgumentParser(description="Write the miniature world's data set.")
    parser.add_argument("--num_train", type=int, default=3000, help="pictures for training")
    parser.add_argument("--num_heldout", type=int, default=200, help="held-out pictures")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="gets mini/")
    parser.add_argument("--seed", type=int, default=0, help="decides every picture and caption")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    folder = generate(
        options.output,
        num_train=options.num_train,
        num_heldout=options.num_heldout,
        seed=options.seed,
    )
    print(f"{folder} is ready ({time.monotonic() - started:.1f} s)")


if __name__ == "__main__":
    run_command(main)
