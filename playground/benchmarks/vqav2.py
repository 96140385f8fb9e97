"""Miniature VQAv2: three questions a picture, ten annotators each, in the official JSON forms."""

from __future__ import annotations

import random

from playground.benchmarks.annotators import annotate, confidence
from playground.benchmarks.files import Files, Row
from playground.benchmarks.prompts import SHORT_ANSWER
from playground.instructions import ask_several
from playground.questions import NUMBER_WORDS, YES_NO_KINDS, Question
from playground.scene import sample_scene
from playground.world import Split

PICTURES = 80
QUESTIONS_EACH = 3
QUESTION_TYPES = (
    "how many",
    "is anything",
    "is there a",
    "what colour is the",
    "what is the",
    "what does the",
    "where is the",
)
"""First words that name a question's type, as VQAv2's do ("how many", "is there a", ...)."""


def question_type(text: str) -> str:
    """Return the first words by which VQAv2 sorts questions."""
    return next((start for start in QUESTION_TYPES if text.startswith(start)), "none of the above")


def answer_type(question: Question) -> str:
    """Return VQAv2's type of an answer."""
    if question.kind in YES_NO_KINDS:
        return "yes/no"
    return "number" if question.answer in NUMBER_WORDS else "other"


def _annotation(rng: random.Random, identity: int, image_id: int, question: Question) -> Row:
    answers = [
        {"answer": answer, "answer_confidence": confidence(rng), "answer_id": number}
        for number, answer in enumerate(annotate(rng, question.answer), start=1)
    ]
    return {
        "question_type": question_type(question.text),
        "multiple_choice_answer": question.answer,
        "answers": answers,
        "image_id": image_id,
        "answer_type": answer_type(question),
        "question_id": identity,
    }


def make_vqav2(seed: int, split: Split = "test") -> Files:
    """Make ``vqav2/``: questions, annotations, pictures in ``val2014/``."""
    files = Files("vqav2")
    lines: list[Row] = []
    annotations: list[Row] = []
    for number in range(PICTURES):
        rng = random.Random(f"{seed}/vqav2/{number}")
        scene = sample_scene(rng, split)
        image_id = 1000 + number
        image = f"COCO_val2014_{image_id:012d}.jpg"
        files.add_picture(f"val2014/{image}", scene)
        for place, question in enumerate(ask_several(rng, scene, QUESTIONS_EACH)):
            identity = image_id * 1000 + place
            text = f"{question.text}\n{SHORT_ANSWER}"
            lines.append(
                {"question_id": identity, "image": image, "text": text, "category": "default"}
            )
            annotations.append(_annotation(rng, identity, image_id, question))
    files.questions = len(lines)
    files.add_lines("llava_vqav2_mscoco_val2014.jsonl", lines)
    head = {"data_type": "mscoco", "data_subtype": "val2014"}
    files.add_json("v2_mscoco_val2014_annotations.json", head | {"annotations": annotations})
    return files
