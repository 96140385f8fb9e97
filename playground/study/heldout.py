"""The scenes that are measured: captions and questions about scenes that no training picture shows.

Their folder holds records in LLaVA's layout, the true words of their patches, questions with
answers, and the tower's features; ``manifest.json`` comes last. Pictures are rendered and never
written. Limits: pixels come without JPEG's noise, as from the training pictures' PNG files.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from llava_sea.data.images import ImageTransform
from llava_sea.files import sha256_file, write_atomically
from playground import questions
from playground.captions import write_caption
from playground.generate import TruthTable
from playground.questions import prompt_of, test_questions
from playground.render import render_scene
from playground.scene import Scene, sample_scene
from playground.study.features import write_features
from playground.study.recipe import Recipe
from playground.truth import object_patches, patch_words
from playground.world import Split


@dataclass(frozen=True)
class Heldout:
    """The files of a held-out set."""

    folder: Path

    @property
    def records(self) -> Path:
        """Records in LLaVA's layout."""
        return self.folder / "records.json"

    @property
    def truth(self) -> Path:
        """The true words of every patch."""
        return self.folder / "truth.json"

    @property
    def questions(self) -> Path:
        """A list of objects with ``kind``, ``prompt`` and ``answer``."""
        return self.folder / "questions.json"

    @property
    def features(self) -> Path:
        """Features of the records' pictures."""
        return self.folder / "features.npy"

    @property
    def question_features(self) -> Path:
        """Features of the questions' pictures."""
        return self.folder / "question_features.npy"

    def identity(self) -> dict[str, str]:
        """Return the checksums of what is asked for; the features follow from it."""
        return {path.stem: sha256_file(path) for path in (self.records, self.questions, self.truth)}


def prepare_heldout(parent: Path, clip: Path, split: Split, recipe: Recipe) -> Heldout:
    """Make a held-out set, or return the one that is there.

    Args:
        parent: the folder of a world and its tower.
        clip: the tower's folder.
        split: which scenes.
        recipe: how many.
    """
    asked = Path(str(questions.__file__)).read_bytes()
    sizes = f"{recipe.final_pictures}/{recipe.final_per_kind}"
    key = hashlib.sha256(asked + sizes.encode()).hexdigest()[:8]
    heldout = Heldout(parent / f"heldout-{split}-{key}")
    if (heldout.folder / "manifest.json").is_file():
        return heldout
    shutil.rmtree(heldout.folder, ignore_errors=True)
    heldout.folder.mkdir(parents=True)
    rng = random.Random(f"study/{split}")
    scenes = [sample_scene(rng, split) for _ in range(recipe.final_pictures)]
    names = [f"{split}/{number:04d}.png" for number in range(len(scenes))]
    records = [_record(rng, name, scene) for name, scene in zip(names, scenes, strict=True)]
    pairs = _in_rounds(test_questions(split, recipe.final_per_kind))
    rows = [
        {"kind": q.kind, "prompt": prompt_of(q.text), "answer": q.answer, "scene": s.content()}
        for s, q in pairs
    ]
    _write_json(heldout.records, records)
    _write_json(heldout.truth, truth_of(names, scenes))
    _write_json(heldout.questions, rows)
    transform = ImageTransform.from_pretrained(str(clip), "square")
    write_features(heldout.features, clip, _pixels(scenes, transform), len(scenes))
    asked_scenes = [scene for scene, _ in pairs]
    write_features(
        heldout.question_features, clip, _pixels(asked_scenes, transform), len(asked_scenes)
    )
    _write_json(heldout.folder / "manifest.json", {"split": split, "sizes": sizes})
    return heldout


def _in_rounds(
    asked: Sequence[tuple[Scene, questions.Question]],
) -> list[tuple[Scene, questions.Question]]:
    """Order questions one of each kind after the other, so that any beginning is balanced."""
    seen: dict[str, int] = {}
    place = []
    for _, question in asked:
        seen[question.kind] = seen.get(question.kind, 0) + 1
        place.append(seen[question.kind])
    return [asked[i] for i in sorted(range(len(asked)), key=lambda i: place[i])]


def _record(rng: random.Random, name: str, scene: Scene) -> dict[str, Any]:
    caption = write_caption(rng, scene).text
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": caption}]
    return {"id": name, "image": name, "conversations": turns}


def truth_of(names: Sequence[str], scenes: Sequence[Scene]) -> dict[str, Any]:
    """Return the true words of scenes as a truth file has them."""
    truth = TruthTable()
    for name, scene in zip(names, scenes, strict=True):
        truth.add(name, patch_words(scene), object_patches(scene))
    return truth.as_json()


def _pixels(scenes: Sequence[Scene], transform: ImageTransform) -> Iterator[Tensor]:
    for scene in scenes:
        yield transform(Image.fromarray(render_scene(scene)))


def _write_json(path: Path, content: object) -> None:
    write_atomically(path, json.dumps(content, ensure_ascii=False).encode())
