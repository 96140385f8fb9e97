"""Questions without a picture: is what the LLM could read kept after training?

A scene told in words, then a question of `playground.questions`, as many of each kind; yes-no
questions have each answer half of the time. No request for a short answer is appended, so that an
LLM that never met one can be asked the same.
"""

from __future__ import annotations

import random

from playground.benchmarks.files import Files, Row
from playground.benchmarks.told import tell_for
from playground.questions import QUESTION_KINDS, YES_NO_KINDS, Question, ask
from playground.scene import Scene, sample_scene
from playground.world import Split

EACH = 20
"""Questions of each kind."""


def _draw(rng: random.Random, kind: str, number: int, split: Split) -> tuple[Scene, Question]:
    wanted = ("yes", "no")[number % 2] if kind in YES_NO_KINDS else None
    while True:
        scene = sample_scene(rng, split)
        question = ask(rng, scene, kind)
        if question and wanted in (None, question.answer):
            return scene, question


def make_text_only(seed: int, split: Split = "test") -> Files:
    """Make ``text_only.jsonl``: question_id, text, answer, kind."""
    files = Files("")
    rows: list[Row] = []
    for kind in QUESTION_KINDS:
        for number in range(EACH):
            rng = random.Random(f"{seed}/text_only/{kind}/{number}")
            scene, question = _draw(rng, kind, number, split)
            text = f"{tell_for(rng, scene, kind)}\n{question.text}"
            files.scenes[f"text_only/{len(rows)}"] = scene.content()
            rows.append(
                {"question_id": len(rows), "text": text, "answer": question.answer, "kind": kind}
            )
    files.questions = len(rows)
    files.add_lines("text_only.jsonl", rows)
    return files
