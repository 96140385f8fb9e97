"""Miniature MM-Vet: an open question a picture, with the capabilities that it needs."""

from __future__ import annotations

import random

from playground.benchmarks.files import Files, Row
from playground.benchmarks.open_questions import OPEN_KINDS, OpenQuestion, ask_open
from playground.scene import Scene, sample_scene
from playground.world import Split

QUESTIONS = 150


def _draw(rng: random.Random, kind: str, split: Split) -> tuple[Scene, OpenQuestion]:
    while True:
        scene = sample_scene(rng, split)
        question = ask_open(rng, scene, kind)
        if question:
            return scene, question


def make_mmvet(seed: int, split: Split = "test") -> Files:
    """Make ``mm-vet/``: LLaVA's questions (id N), MM-Vet's own (``v1_N``), pictures."""
    files = Files("mm-vet")
    lines: list[Row] = []
    entries: dict[str, Row] = {}
    for number in range(QUESTIONS):
        rng = random.Random(f"{seed}/mm-vet/{number}")
        scene, question = _draw(rng, OPEN_KINDS[number % len(OPEN_KINDS)], split)
        image = f"v1_{number}.png"
        files.add_picture(f"images/{image}", scene)
        lines.append(
            {
                "question_id": number,
                "image": image,
                "text": question.text,
                "category": "default",
            }
        )
        entries[f"v1_{number}"] = {
            "imagename": image,
            "question": question.text,
            "answer": question.truth,
            "imagesource": "miniature world",
            "capability": list(question.capabilities),
        }
    files.questions = len(lines)
    files.add_lines("llava-mm-vet.jsonl", lines)
    files.add_json("mm-vet.json", entries)
    return files
