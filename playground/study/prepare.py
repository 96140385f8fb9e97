"""All that runs share, made once: pictures, words, labels of every kind, features, held-out scenes.

Everything lies in a folder named after what it depends on (the world's sources, the tower, the
sizes), so another world or another CLIP gets a folder of its own and nothing stale is used. Each
part is whole or not there: the command may be killed at any moment.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from llava_sea.alignment import LabelStore
from llava_sea.data.images import ImageTransform, load_image
from llava_sea.data.records import Record, load_records
from llava_sea.files import open_atomically, sha256_file, write_atomically
from llava_sea.labels.extract import extract_labels
from llava_sea.labels.occurrence import Truth
from llava_sea.labels.options import ExtractOptions
from llava_sea.labels.word_list import WordListOptions, build_word_list
from playground.generate import generate, generator_version
from playground.study.arms import ARMS, Arm
from playground.study.features import write_features
from playground.study.heldout import Heldout, prepare_heldout
from playground.study.recipe import Recipe
from playground.study.true_labels import label_precision, write_true_labels
from playground.world import Split

logger = logging.getLogger(__name__)

_PRECISION_PICTURES = 500


@dataclass(frozen=True)
class World:
    """The files that runs read."""

    folder: Path
    clip: Path
    heldout: Heldout

    @property
    def data(self) -> Path:
        """Training records."""
        return self.folder / "mini" / "pretrain.json"

    @property
    def images(self) -> Path:
        """Training pictures."""
        return self.folder / "mini" / "images"

    @property
    def truth(self) -> Path:
        """The true words of the training pictures' patches."""
        return self.folder / "mini" / "truth.json"

    @property
    def words(self) -> Path:
        """The word list."""
        return self.folder / "words.tsv"

    @property
    def features(self) -> Path:
        """Features of the training pictures."""
        return self.folder / "features.npy"

    @property
    def crc32(self) -> Path:
        """CRC-32 of the training pictures' files."""
        return self.folder / "crc32.npy"

    def labels(self, arm: Arm) -> Path | None:
        """The folder of an arm's labels."""
        name = arm.labels_folder()
        return self.folder / name if name else None


def world_folder(output: Path, clip: Path, recipe: Recipe) -> Path:
    """Name the folder after all that training pictures and features depend on."""
    depends_on = [
        generator_version(),
        str((recipe.num_train, recipe.world_seed, recipe.min_count, recipe.true_top_n)),
        *(sha256_file(clip / name) for name in ("model.safetensors", "preprocessor_config.json")),
    ]
    return output / f"world-{hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:12]}"


def prepare(
    output: Path,
    clip: Path,
    arms: Sequence[str],
    split: Split,
    recipe: Recipe,
    known: Mapping[str, Arm] = ARMS,
) -> World:
    """Make sure that everything is there.

    Args:
        output: the study's folder.
        clip: the tower with its text tower.
        arms: whose labels are needed.
        split: scenes to measure on.
        recipe: sizes and seeds.
        known: the arms by name.

    Raises:
        UserError: what the commands that are called here say.
    """
    folder = world_folder(output, clip, recipe)
    logger.info("pictures, words, labels and features are in %s", folder)
    generate(folder, num_train=recipe.num_train, num_heldout=1, seed=recipe.world_seed)
    world = World(folder, clip, prepare_heldout(folder, clip, split, recipe))
    if not world.words.is_file():
        common = folder / "mini" / "common_words.txt"
        options = WordListOptions(
            data_path=(str(world.data),),
            output=str(world.words),
            common_words=str(common),
            min_count=recipe.min_count,
        )
        build_word_list(options)
    for name in arms:
        _prepare_labels(world, known[name], recipe)
    if not world.features.is_file():
        logger.info("features of %d pictures", recipe.num_train)
        _write_training_features(world)
    return world


def _prepare_labels(world: World, arm: Arm, recipe: Recipe) -> None:
    folder = world.labels(arm)
    if folder is None:
        return
    if not arm.truth:
        _extract(world, arm, folder)
        return
    mined_arm = Arm(arm.name, arm.title, arm.preset, arm.sign)
    mined = world.labels(mined_arm)
    assert mined is not None
    _extract(world, mined_arm, mined)
    write_true_labels(folder, LabelStore(mined), Truth(world.truth), recipe.true_top_n)


def _extract(world: World, arm: Arm, folder: Path) -> None:
    if (folder / "manifest.json").is_file():
        return  # the folder's name says what is in it
    options = ExtractOptions(
        data_path=str(world.data),
        image_folder=str(world.images),
        vision_tower=str(world.clip),
        words=str(world.words),
        output_dir=str(folder),
        sea_preset=str(arm.preset),
        device="cpu",
        **arm.extraction(),
    )
    logger.info("labels for %s", arm.title)
    extract_labels(options)


def _write_training_features(world: World) -> None:
    records = load_records(world.data)
    crc32: list[int] = []
    transform = ImageTransform.from_pretrained(str(world.clip), "square")

    def pixels() -> Iterator[Tensor]:
        for record in records:
            image, checksum = load_image(str(world.images), str(record.image), record.id)
            crc32.append(checksum)
            yield transform(image)

    # The features last: with them, both are there.
    pictures: Iterator[Tensor] = pixels()
    partial = world.features.with_name("features.partial.npy")
    write_features(partial, world.clip, pictures, len(records))
    with open_atomically(world.crc32) as file:
        np.save(file, np.array(crc32, np.uint32))
    partial.replace(world.features)


def precision_of(world: World, arm: Arm) -> tuple[float, float] | None:
    """Return how often an arm's labels are true, on all and on object patches; kept in a file."""
    folder = world.labels(arm)
    if folder is None:
        return None
    store = LabelStore(folder)
    path = world.folder / f"precision-{folder.name}.json"
    if not path.is_file():
        records: list[Record] = load_records(world.data)[:_PRECISION_PICTURES]
        found = label_precision(store, Truth(world.truth), [str(r.image) for r in records])
        write_atomically(path, json.dumps(found).encode())
    everywhere, objects = json.loads(path.read_text())
    return everywhere, objects
