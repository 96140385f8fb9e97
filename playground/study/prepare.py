"""All that runs share, made once: images, words, labels of every kind, features, held-out scenes.

Everything lies in a folder named after all that it depends on (the world's sources, the tower, the
sizes), so another world or another CLIP gets a folder of its own and nothing stale is used. Each
part is whole or not there: the command may be killed at any moment.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from llava_sea.alignment import LabelStore
from llava_sea.data.images import ImageTransform, load_image
from llava_sea.data.records import load_records
from llava_sea.files import open_atomically, sha256_file, write_atomically
from llava_sea.labels.extract import extract_labels
from llava_sea.labels.occurrence import Truth
from llava_sea.labels.options import ExtractOptions
from llava_sea.labels.word_list import WordListOptions, build_word_list
from playground.generate import TruthTable, generate, generator_version
from playground.render import render_scene
from playground.study.arms import ARMS, Arm
from playground.study.eight import prepare_exam
from playground.study.features import write_features
from playground.study.learned import make_exam
from playground.study.recipe import Recipe
from playground.study.true_labels import label_precision, write_true_labels
from playground.truth import object_patches, patch_words
from playground.world import Split

logger = logging.getLogger(__name__)

_PRECISION_IMAGES = 500


@dataclass(frozen=True)
class World:
    """The files that runs read."""

    folder: Path
    clip: Path
    split: Split
    exam: str = "exam"
    """Names the files of the held-out scenes."""

    @property
    def data(self) -> Path:
        """Training records."""
        return self.folder / "mini" / "pretrain.json"

    @property
    def instructions(self) -> Path:
        """Conversations about training images, for stage 2."""
        return self.folder / "mini" / "finetune.json"

    @property
    def images(self) -> Path:
        """Training images."""
        return self.folder / "mini" / "images"

    @property
    def truth(self) -> Path:
        """The true words of the training images' patches."""
        return self.folder / "mini" / "truth.json"

    @property
    def words(self) -> Path:
        """The word list."""
        return self.folder / "words.tsv"

    @property
    def features(self) -> Path:
        """Features of the training images."""
        return self.folder / "features.npy"

    @property
    def crc32(self) -> Path:
        """CRC-32 of the training images' files."""
        return self.folder / "crc32.npy"

    @property
    def exam_features(self) -> Path:
        """Features of the exam's scenes."""
        return self.folder / f"{self.exam}.npy"

    @property
    def heldout(self) -> Path:
        """Records of the exam's first scenes, with their captions."""
        return self.folder / f"{self.exam}-records.json"

    @property
    def heldout_truth(self) -> Path:
        """The true words of their patches."""
        return self.folder / f"{self.exam}-truth.json"

    def labels(self, arm: Arm) -> Path | None:
        """The folder of an arm's labels."""
        name = arm.labels_folder()
        return self.folder / name if name else None


def prepare(output: Path, clip: Path, arms: Sequence[str], recipe: Recipe) -> World:
    """Make sure that everything is there.

    Args:
        output: the study's folder.
        clip: the tower with its text tower.
        arms: whose labels are needed.
        recipe: sizes and seeds.

    Raises:
        UserError: what the commands that are called here say.
    """
    sizes = (recipe.num_train, recipe.world_seed, recipe.min_count, recipe.true_top_n)
    depends_on = [generator_version(), str(sizes)]
    depends_on += [
        sha256_file(clip / name) for name in ("model.safetensors", "preprocessor_config.json")
    ]
    name = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:12]
    split: Split = recipe.split  # type: ignore[assignment]
    exam = "-".join(map(str, ("exam", split, recipe.scenes, recipe.aligned_scenes)))
    world = World(output / f"world-{name}", clip, split, exam)
    logger.info("images, words, labels and features are in %s", world.folder)
    generate(world.folder, num_train=recipe.num_train, num_heldout=1, seed=recipe.world_seed)
    if not world.words.is_file():
        options = WordListOptions(
            data_path=(str(world.data),),
            output=str(world.words),
            common_words=str(world.folder / "mini" / "common_words.txt"),
            min_count=recipe.min_count,
        )
        build_word_list(options)
    for arm in arms:
        _prepare_labels(world, ARMS[arm], recipe)
    transform = ImageTransform.from_pretrained(str(clip), "square")
    if not world.features.is_file():
        logger.info("features of %d images", recipe.num_train)
        _write_training_features(world, transform)
    if not world.exam_features.is_file():
        _write_exam(world, transform, recipe)
    for seed in sorted({seed for _, stage in recipe.stage2 for seed in stage.exams}):
        prepare_exam(world.folder, clip, split, seed)
    return world


def _write_exam(world: World, transform: ImageTransform, recipe: Recipe) -> None:
    """Write the exam's files; its features last: with them, all are there."""
    exam = make_exam(world.split, recipe.scenes, recipe.per_kind, recipe.others)
    records, truth = [], TruthTable()
    for number in range(min(recipe.aligned_scenes, recipe.scenes)):
        name, scene = f"{world.split}/{number:04d}.png", exam.scenes[number]
        turns = [
            {"from": "human", "value": "<image>"},
            {"from": "gpt", "value": exam.captions[number]},
        ]
        records.append({"id": name, "image": name, "conversations": turns})
        truth.add(name, patch_words(scene), object_patches(scene))
    write_atomically(world.heldout, json.dumps(records).encode())
    write_atomically(world.heldout_truth, json.dumps(truth.as_json()).encode())
    pixels = (transform(Image.fromarray(render_scene(scene))) for scene in exam.scenes)
    write_features(world.exam_features, world.clip, pixels, len(exam.scenes))


def _prepare_labels(world: World, arm: Arm, recipe: Recipe) -> None:
    folder = world.labels(arm)
    if folder is None or (folder / "manifest.json").is_file():
        return  # the folder's name says what is in it
    if arm.truth:
        mined = next(a for a in ARMS.values() if a.preset == arm.preset and not a.truth)
        _prepare_labels(world, mined, recipe)
        source = world.labels(mined)
        assert source is not None
        write_true_labels(folder, LabelStore(source), Truth(world.truth), recipe.true_top_n)
        return
    logger.info("labels for %s", arm.title)
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
    extract_labels(options)


def _write_training_features(world: World, transform: ImageTransform) -> None:
    records = load_records(world.data)
    crc32: list[int] = []

    def pixels() -> Iterator[Tensor]:
        for record in records:
            image, checksum = load_image(str(world.images), str(record.image), record.id)
            crc32.append(checksum)
            yield transform(image)

    # The features last: with them, both are there.
    partial = world.features.with_name("features.partial.npy")
    write_features(partial, world.clip, pixels(), len(records))
    with open_atomically(world.crc32) as file:
        np.save(file, np.array(crc32, np.uint32))
    partial.replace(world.features)


def precision_of(world: World, arm: Arm) -> tuple[float, float] | None:
    """Return how often an arm's labels are true, on all and on object patches; kept in a file."""
    folder = world.labels(arm)
    if folder is None:
        return None
    path = world.folder / f"precision-{folder.name}.json"
    if not path.is_file():
        records = load_records(world.data)[:_PRECISION_IMAGES]
        names = [str(record.image) for record in records]
        found = label_precision(LabelStore(folder), Truth(world.truth), names)
        write_atomically(path, json.dumps(found).encode())
    everywhere, objects = json.loads(path.read_text())
    return everywhere, objects
