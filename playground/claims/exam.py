"""The files of the miniature eight for one split, and the features of their pictures; made once.

One exam is one seed's files; a study asks several, for the questions of one are few. A folder of
questions is named after split and seed and its features after all that they depend on, so another
tower gets features of its own.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from llava_sea.data.images import ImageTransform, decode_image
from llava_sea.errors import UserError
from llava_sea.eval.benchmarks import TASKS, Task
from llava_sea.eval.questions import Question, distinct, read_questions
from llava_sea.files import sha256_file
from playground.benchmarks.build import MANIFEST, build
from playground.study.features import write_features
from playground.world import Split

logger = logging.getLogger(__name__)

Picture = str | bytes
"""A file's path below the benchmarks' folder, or its bytes."""


@dataclass(frozen=True)
class Exam:
    """The benchmarks' folder, LLaVA's ``playground/data/eval``, and the features beside it."""

    folder: Path
    features: Path
    identity: str
    """A hash of all files of the benchmarks."""

    def tasks(self) -> list[Task]:
        """Return the eight tasks: those that the folder holds the files of."""
        return [task for task in TASKS if task.default and not task.missing(self.folder)]

    def questions(self, task: Task) -> list[Question]:
        """Return a task's questions, each once."""
        path = self.folder / task.questions
        return list(distinct(read_questions(path, single_pred_prompt=task.ask_letter)).values())

    def picture_of(self, task: Task, question: Question) -> Picture | None:
        """Return what the features' rows are found by; None for a question without a picture."""
        if isinstance(question.image, str):
            return f"{task.images}/{question.image}"
        return question.image

    def pictures(self) -> dict[Picture, int]:
        """Return the row of each picture's features."""
        found: dict[Picture, int] = {}
        for task in self.tasks():
            for question in self.questions(task):
                picture = self.picture_of(task, question)
                if picture is not None:
                    found.setdefault(picture, len(found))
        return found


def prepare_exams(output: Path, clip: Path, split: Split, seeds: Sequence[int]) -> tuple[Exam, ...]:
    """Prepare an exam for each seed; see `prepare_exam`."""
    return tuple(prepare_exam(output, clip, split, seed) for seed in seeds)


def prepare_exam(output: Path, clip: Path, split: Split, seed: int) -> Exam:
    """Make sure that the benchmarks and their features are there.

    Args:
        output: gets the folder and the features.
        clip: the tower's folder.
        split: whose scenes are shown.
        seed: of the benchmarks.

    Raises:
        UserError: if `output` holds something else under the same name.
    """
    folder = output / f"eval-{split}-{seed}"
    build(folder, seed, split)
    identity = _identity(folder)
    used = [identity, *(sha256_file(clip / name) for name in _OF_CLIP)]
    key = hashlib.sha256("".join(used).encode()).hexdigest()[:12]
    exam = Exam(folder, output / f"features-{split}-{key}.npy", identity)
    if lacking := {t.benchmark for t in TASKS} - {t.benchmark for t in exam.tasks()}:
        named = ", ".join(sorted(lacking))
        raise UserError(f"{folder}: lacks files of {named}; remove it, and it is made again")
    if not exam.features.is_file():
        pictures = list(exam.pictures())
        logger.info("features of %d pictures of the benchmarks", len(pictures))
        transform = ImageTransform.from_pretrained(str(clip), "square")
        write_features(exam.features, clip, _pixels(folder, pictures, transform), len(pictures))
    return exam


_OF_CLIP = ("model.safetensors", "preprocessor_config.json")


def _identity(folder: Path) -> str:
    """Hash what stands in the files; the manifest also changes with their makers' comments."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            digest.update(f"{path.relative_to(folder)} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


def _pixels(
    folder: Path, pictures: Sequence[Picture], transform: ImageTransform
) -> Iterator[Tensor]:
    for picture in pictures:
        data = picture if isinstance(picture, bytes) else (folder / picture).read_bytes()
        where = str(picture)[:80]
        yield transform(decode_image(data, where, "remove the folder, and it is made again"))
