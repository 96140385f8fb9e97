"""Miniature GQA: three composed questions a picture, from `playground.benchmarks.composed`."""

from __future__ import annotations

import random

from playground.benchmarks.composed import COMPOSED_KINDS, compose
from playground.benchmarks.files import Files, Row
from playground.benchmarks.prompts import SHORT_ANSWER
from playground.questions import Question
from playground.scene import Scene, sample_scene
from playground.world import Split

PICTURES = 80
QUESTIONS_EACH = 3

TYPES = {
    "colour of a thing beside another": ("query", "attr", "directOf"),
    "thing beside another": ("query", "rel", "relO"),
    "is it beside": ("verify", "rel", "relVerify"),
    "which side": ("choose", "rel", "relChooser"),
    "which of two colours": ("choose", "attr", "chooseAttr"),
    "both kinds": ("logical", "obj", "existAnd"),
    "both pairs": ("logical", "obj", "existAndC"),
}
"""Structural, semantic and detailed type, in GQA's words."""


def _draw(rng: random.Random, split: Split) -> tuple[Scene, list[Question]]:
    """Draw a scene that has enough questions, each of another kind."""
    while True:
        scene = sample_scene(rng, split, rng.choice((2, 3, 3, 4, 4, 5)))
        kinds = rng.sample(COMPOSED_KINDS, len(COMPOSED_KINDS))
        asked = [question for kind in kinds if (question := compose(rng, scene, kind))]
        if len(asked) >= QUESTIONS_EACH:
            return scene, asked[:QUESTIONS_EACH]


def _entry(image_id: str, question: Question) -> Row:
    structural, semantic, detailed = TYPES[question.kind]
    return {
        "semantic": [],
        "entailed": [],
        "equivalent": [],
        "question": question.text,
        "imageId": image_id,
        "isBalanced": True,
        "groups": {"global": question.kind, "local": f"{image_id}-{question.kind}"},
        "answer": question.answer,
        "semanticStr": "",
        "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
        "types": {"detailed": detailed, "semantic": semantic, "structural": structural},
        "fullAnswer": question.answer,
    }


def make_gqa(seed: int, split: Split = "test") -> Files:
    """Make ``gqa/``: LLaVA's questions, GQA's own below ``data/`` with pictures in ``images/``."""
    files = Files("gqa")
    lines: list[Row] = []
    questions: dict[str, Row] = {}
    for number in range(PICTURES):
        rng = random.Random(f"{seed}/gqa/{number}")
        scene, asked = _draw(rng, split)
        image_id = f"n{number + 1}"
        files.add_picture(f"data/images/{image_id}.jpg", scene)
        for place, question in enumerate(asked):
            identity = f"{201000000 + number * 10 + place}"
            text = f"{question.text}\n{SHORT_ANSWER}"
            lines.append(
                {
                    "question_id": identity,
                    "image": f"{image_id}.jpg",
                    "text": text,
                    "category": "default",
                }
            )
            questions[identity] = _entry(image_id, question)
    files.questions = len(lines)
    files.add_lines("llava_gqa_testdev_balanced.jsonl", lines)
    files.add_json("data/testdev_balanced_questions.json", questions)
    return files
