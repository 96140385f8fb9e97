"""Miniature TextVQA: questions about the word on a sign, with and without OCR tokens.

As in TextVQA a question's id in LLaVA's files is the picture's id, which repeats where a picture
has two questions; the question's text tells them apart.
"""

from __future__ import annotations

import hashlib
import random

from playground.benchmarks.annotators import annotate
from playground.benchmarks.files import Files, Row
from playground.benchmarks.prompts import SHORT_ANSWER
from playground.benchmarks.written import ask_written, read_tokens, token_line
from playground.scene import Scene, sample_scene
from playground.world import PICTURE_SIDE, Split

PICTURES = 110
TWO_EVERY = 2
"""Each second picture has two questions."""


def _scene_with_sign(rng: random.Random, split: Split) -> Scene:
    while True:
        scene = sample_scene(rng, split)
        if scene.sign:
            return scene


def make_textvqa(seed: int, split: Split = "test") -> Files:
    """Make ``textvqa/``: two question files, annotations, pictures in ``train_images/``."""
    files = Files("textvqa")
    lines: list[Row] = []
    bare: list[Row] = []
    data: list[Row] = []
    for number in range(PICTURES):
        rng = random.Random(f"{seed}/textvqa/{number}")
        scene = _scene_with_sign(rng, split)
        image_id = hashlib.sha256(f"{seed}/textvqa/{number}".encode()).hexdigest()[:16]
        files.add_picture(f"train_images/{image_id}.jpg", scene)
        tokens = token_line(read_tokens(rng, scene))
        for question in ask_written(rng, scene, 2 if number % TWO_EVERY == 0 else 1):
            line = {"question_id": image_id, "image": f"{image_id}.jpg"}
            end = {"category": "default"}
            with_tokens = f"{question.text}\n{tokens}\n{SHORT_ANSWER}"
            lines.append(line | {"text": with_tokens} | end)
            bare.append(line | {"text": f"{question.text}\n{SHORT_ANSWER}"} | end)
            data.append(
                {
                    "question": question.text,
                    "image_id": image_id,
                    "image_width": PICTURE_SIDE,
                    "image_height": PICTURE_SIDE,
                    "question_id": 34602 + len(data),  # where the real val split starts
                    "set_name": "val",
                    "answers": annotate(rng, question.answer),
                }
            )
    files.questions = len(lines)
    files.add_lines("llava_textvqa_val_v051_ocr.jsonl", lines)
    files.add_lines("llava_textvqa_val_v051.jsonl", bare)
    head = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1"}
    files.add_json("TextVQA_0.5.1_val.json", head | {"data": data})
    return files
