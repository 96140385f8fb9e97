"""Miniature VizWiz: a question a picture, a third of which the picture does not answer."""

from __future__ import annotations

import random

from playground.benchmarks.absent import ABSENT_KINDS, NO_ANSWER, ask_absent
from playground.benchmarks.annotators import annotate, confidence
from playground.benchmarks.files import Files, Row
from playground.benchmarks.prompts import SHORT_ANSWER, UNANSWERABLE
from playground.questions import Question
from playground.scene import Scene, sample_scene
from playground.world import Split

PICTURES = 180
UNANSWERABLE_EVERY = 3
"""Each third question has no answer; in VizWiz's val split about as many have none."""


def _draw(
    rng: random.Random, kind: str, split: Split, *, answerable: bool
) -> tuple[Scene, Question]:
    while True:
        scene = sample_scene(rng, split)
        question = ask_absent(rng, scene, kind, answerable=answerable)
        if question:
            return scene, question


def _entry(rng: random.Random, image: str, question: Question) -> Row:
    answerable = question.answer != NO_ANSWER
    answers = annotate(rng, question.answer if answerable else NO_ANSWER.lower())
    return {
        "image": image,
        "question": question.text,
        "answers": [{"answer_confidence": confidence(rng), "answer": a} for a in answers],
        "answer_type": "other" if answerable else "unanswerable",
        "answerable": int(answerable),
    }


def make_vizwiz(seed: int, split: Split = "test") -> Files:
    """Make ``vizwiz/``: questions, annotations, pictures in ``val/``; the image joins them."""
    files = Files("vizwiz")
    lines: list[Row] = []
    entries: list[Row] = []
    for number in range(PICTURES):
        rng = random.Random(f"{seed}/vizwiz/{number}")
        kind = ABSENT_KINDS[number // UNANSWERABLE_EVERY % len(ABSENT_KINDS)]
        scene, question = _draw(rng, kind, split, answerable=number % UNANSWERABLE_EVERY != 0)
        image = f"VizWiz_val_{number:08d}.jpg"
        files.add_picture(f"val/{image}", scene)
        text = f"{question.text}\n{UNANSWERABLE}\n{SHORT_ANSWER}"
        lines.append({"question_id": number, "image": image, "text": text, "category": "default"})
        entries.append(_entry(rng, image, question))
    files.questions = len(lines)
    files.add_lines("llava_val.jsonl", lines)
    files.add_json("val.json", entries)
    return files
