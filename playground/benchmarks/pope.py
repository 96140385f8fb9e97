"""Miniature POPE: is a kind of thing there? Two that are and two that are not, three times over.

The absent kinds are drawn uniformly (random), from the most frequent of the training captions
(popular), or are those that look most like what is there (adversarial). The real adversarial split
takes what co-occurs most with what is there; in the world no kinds do, so likeness stands in.
The questions whose answer is "yes" are the same in all three, as in POPE. POPE's scorer joins
answers and labels by the order of lines: order and count agree in all files.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from functools import cache

import numpy as np

from playground.benchmarks.files import Files, Row
from playground.benchmarks.prompts import SHORT_ANSWER
from playground.captions import with_article
from playground.corpus import sample_captions
from playground.scene import Scene, sample_scene
from playground.shapes import draw_shape
from playground.vocabulary import KIND_BY_NAME, KINDS, SIZES
from playground.world import Split

PICTURES = 25
EACH = 2
"""Questions of either answer for each picture and category."""

CATEGORIES = ("adversarial", "popular", "random")
CAPTIONS = 1000
"""How many training captions are counted."""

NUM_POPULAR = 6
"""Popular ones are drawn from so many, so that it is not one kind always."""


@cache
def kinds_by_frequency() -> tuple[str, ...]:
    """Return all kinds, those first that training captions name most."""
    name_of = {
        name: row.name for row in KINDS for name in (*row.names, *row.plurals) if " " not in name
    }
    counts: Counter[str] = Counter()
    for caption in sample_captions(CAPTIONS, 0):
        counts.update(name_of[word] for word in re.findall(r"[a-z-]+", caption) if word in name_of)
    return tuple(sorted(KIND_BY_NAME, key=lambda kind: (-counts[kind], kind)))


@cache
def likeness(one: str, other: str) -> float:
    """Return how alike two kinds look: minus the mean difference of their large shapes' tones."""
    drawn = []
    for kind in (one, other):
        row = KIND_BY_NAME[kind]
        mask_SS, tone_SS = draw_shape(row.silhouette, row.texture, SIZES[1].side)
        drawn.append(np.where(mask_SS, tone_SS, -1.0))
    return -float(np.abs(drawn[0] - drawn[1]).mean())


def absent_kinds(rng: random.Random, scene: Scene, category: str) -> list[str]:
    """Choose `EACH` kinds that a scene does not show, as the category has them."""
    there = {thing.kind for thing in scene.things}
    absent = [kind for kind in kinds_by_frequency() if kind not in there]
    if category == "popular":
        absent = absent[:NUM_POPULAR]
    elif category == "adversarial":
        absent.sort(key=lambda kind: -max(likeness(kind, shown) for shown in there))
        absent = absent[:EACH]
    return rng.sample(absent, EACH)


def _draw(rng: random.Random, split: Split) -> tuple[Scene, list[str]]:
    while True:
        scene = sample_scene(rng, split)
        kinds = sorted({thing.kind for thing in scene.things})
        if len(kinds) >= EACH:
            return scene, rng.sample(kinds, EACH)


def make_pope(seed: int, split: Split = "test") -> Files:
    """Make ``pope/``: LLaVA's questions, POPE's labels in ``coco/``, pictures in ``val2014/``."""
    files = Files("pope")
    drawn: list[tuple[str, Scene, list[str]]] = []
    for number in range(PICTURES):
        scene, shown = _draw(random.Random(f"{seed}/pope/{number}"), split)
        image = f"COCO_val2014_{number + 1:012d}.jpg"
        files.add_picture(f"val2014/{image}", scene)
        drawn.append((image, scene, shown))
    lines: list[Row] = []
    for category in CATEGORIES:
        labels: list[Row] = []
        for number, (image, scene, shown) in enumerate(drawn):
            rng = random.Random(f"{seed}/pope/{number}/{category}")
            absent = absent_kinds(rng, scene, category)
            for there, missing in zip(shown, absent, strict=True):
                for kind, label in ((there, "yes"), (missing, "no")):
                    text = f"is there {with_article(kind)}?"
                    labels.append(
                        {
                            "question_id": len(labels) + 1,
                            "image": image,
                            "text": text,
                            "label": label,
                        }
                    )
                    lines.append(
                        {
                            "question_id": len(lines),
                            "image": image,
                            "text": f"{text}\n{SHORT_ANSWER}",
                            "category": category,
                        }
                    )
        files.add_lines(f"coco/coco_pope_{category}.json", labels)
    files.questions = len(lines)
    files.add_lines("llava_pope_test.jsonl", lines)
    return files
