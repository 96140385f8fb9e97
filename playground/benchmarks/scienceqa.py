"""Miniature ScienceQA: lettered options, with a picture or with the scene told in words.

The runner appends the request for a letter; the files have question, context and options alone.
"""

from __future__ import annotations

import random

from playground.benchmarks.choices import CHOICE_KINDS, Choice, choose, hint_for
from playground.benchmarks.files import Files, Row
from playground.benchmarks.prompts import with_options
from playground.benchmarks.told import context_line, tell_for
from playground.questions import QUESTION_KINDS
from playground.scene import Scene, sample_scene
from playground.world import Split

WITH_PICTURE = 120
TOLD = 60
"""Questions with a picture, and with the scene told in words."""


def draw_choice(
    rng: random.Random, kinds: tuple[str, ...] = CHOICE_KINDS, *, split: Split = "test"
) -> tuple[Scene, Choice]:
    """Draw a scene and a question with options."""
    kind = rng.choice(kinds)
    while True:
        scene = sample_scene(rng, split)
        choice = choose(rng, scene, kind)
        if choice:
            return scene, choice


def _problem(choice: Choice, hint: str, *, pictured: bool) -> Row:
    return {
        "question": choice.question,
        "choices": list(choice.options),
        "answer": choice.answer,
        "hint": hint,
        "image": "image.png" if pictured else None,
        "task": "closed choice",
        "grade": "grade1",
        "subject": "natural science",
        "topic": "miniature world",
        "category": choice.kind,
        "skill": choice.kind,
        "lecture": "",
        "solution": "",
        "split": "test",
    }


def make_scienceqa(seed: int, split: Split = "test") -> Files:
    """Make ``scienceqa/``: LLaVA's questions, ScienceQA's problems and splits, pictures."""
    files = Files("scienceqa")
    records: list[Row] = []
    problems: dict[str, Row] = {}
    for number in range(WITH_PICTURE + TOLD):
        rng = random.Random(f"{seed}/scienceqa/{number}")
        pictured = number < WITH_PICTURE
        scene, choice = draw_choice(rng, CHOICE_KINDS if pictured else QUESTION_KINDS, split=split)
        identity = f"{number + 1}"
        if pictured:
            files.add_picture(f"images/test/{identity}/image.png", scene)
            hint = hint_for(rng, scene, choice)
        else:
            files.scenes[files.path_of(identity)] = scene.content()
            hint = tell_for(rng, scene, choice.kind)
        text = with_options(choice.question, choice.options, context_line(hint))
        turns = [
            {"from": "human", "value": f"<image>\n{text}" if pictured else text},
            {"from": "gpt", "value": choice.letter},
        ]
        image = {"image": f"{identity}/image.png"} if pictured else {}
        records.append({"id": identity, **image, "conversations": turns})
        problems[identity] = _problem(choice, hint, pictured=pictured)
    files.questions = len(records)
    files.add_json("llava_test_CQM-A.json", records)
    files.add_json("problems.json", problems)
    files.add_json("pid_splits.json", {"train": [], "val": [], "test": list(problems)})
    return files
