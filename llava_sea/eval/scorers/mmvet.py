"""MM-Vet: a judge's mean grade, times 100, with each capability and each combination of them.

The official judge is GPT-4, which is asked with a fixed table of examples and completes its last
cell. Any other judge gives other numbers, so a score names its judge and the days of grading, and
two scores compare only where the judge is the same. An empty or missing answer is graded 0.0
without asking. One grade an answer; the paper averages five.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llava_sea.errors import UserError
from llava_sea.eval.answers import Answer, by_id
from llava_sea.eval.judge import Case, GradeCache, Judge
from llava_sea.eval.score import Score
from llava_sea.eval.scorers.official import check_ids, read_json, reading
from llava_sea.files import write_atomically

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")

_MEME = (
    "This meme is poking fun at the fact that the names of the countries Iceland and Greenland are "
    "misleading. Despite its name, Iceland is known for its beautiful green landscapes, while "
    "Greenland is mostly covered in ice and snow. The meme is saying that the person has trust "
    "issues because the names of these countries do not accurately represent their landscapes."
)
# Table 1 of the paper (arXiv 2308.02490), as github.com/yuweihao/MM-Vet, mm-vet_evaluator.py, has
# it to the letter; grades depend on it.
GRADING_PROMPT = (
    "Compare the ground truth and prediction from AI models, to give a correctness score for the "
    "prediction. <AND> in the ground truth means it is totally right only when all elements in the "
    "ground truth are present in the prediction, and <OR> means it is totally right when any one "
    "element in the ground truth is present in the prediction. The correctness score is 0.0 "
    "(totally wrong), 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, or 1.0 (totally right). Just "
    "complete the last space of the correctness score.\n"
    "\n"
    "Question | Ground truth | Prediction | Correctness\n"
    "--- | --- | --- | ---\n"
    "What is x in the equation? | -1 <AND> -5 | x = 3 | 0.0\n"
    "What is x in the equation? | -1 <AND> -5 | x = -1 | 0.5\n"
    "What is x in the equation? | -1 <AND> -5 | x = -5 | 0.5\n"
    "What is x in the equation? | -1 <AND> -5 | x = -5 or 5 | 0.5\n"
    "What is x in the equation? | -1 <AND> -5 | x = -1 or x = -5 | 1.0\n"
    f"Can you explain this meme? | {_MEME} | The meme talks about Iceland and Greenland. It's "
    "pointing out that despite their names, Iceland is not very icy and Greenland isn't very "
    "green. | 0.4\n"
    f"Can you explain this meme? | {_MEME} | The meme is using humor to point out the misleading "
    "nature of Iceland's and Greenland's names. Iceland, despite its name, has lush green "
    "landscapes while Greenland is mostly covered in ice and snow. The text 'This is why I have "
    "trust issues' is a playful way to suggest that these contradictions can lead to distrust or "
    "confusion. The humor in this meme is derived from the unexpected contrast between the names "
    "of the countries and their actual physical characteristics. | 1.0\n"
)


def grading_prompt(question: str, truth: str, prediction: str) -> str:
    """Return the text that a judge completes with a grade."""
    truth = truth.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    return f"{GRADING_PROMPT}\n{question} | {truth} | {prediction} | "


def official_ids(answers: Sequence[Answer]) -> dict[str, str]:
    """Return the texts by MM-Vet's id; LLaVA's question file has 0 for "v1_0"."""
    return by_id(
        replace(answer, question_id=f"v1_{str(answer.question_id).removeprefix('v1_')}")
        for answer in answers
    )


def write_results(answers: Sequence[Answer], path: Path) -> None:
    """Write ``{"v1_0": text, ...}``, as the official evaluator and LLaVA's results/ have it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(official_ids(answers), indent=2).encode())


def score(answers: Sequence[Answer], metadata: Path, judge: Judge, *, cache: Path) -> Score:
    """Score answers to MM-Vet.

    Args:
        answers: by id, "v1_0" or 0.
        metadata: mm-vet.json, ``{"v1_0": {"question", "answer", "capability": [...], ...}}``.
        judge: grades the answers.
        cache: a .jsonl that keeps the grades.
    """
    asked = _questions(metadata)
    texts = official_ids(answers)
    check_ids(texts, asked, metadata)
    kept = GradeCache(cache)
    values: list[float] = []
    groups: dict[str, list[float]] = defaultdict(list)
    days, models = set(), set()
    for key, row in asked.items():
        text, value = texts.get(key, "").strip(), 0.0
        if text:
            prompt = grading_prompt(row["question"], row["answer"], text)
            grade = kept.grade(judge, Case(key, row["answer"], text, prompt))
            value = grade.value
            days.add(grade.date)
            models.add(grade.model)
        values.append(value)
        names = [name for name in CAPABILITIES if name in row["capability"]]
        for name in (*(f"capability: {name}" for name in names), f"combination: {'+'.join(names)}"):
            groups[name].append(value)
    protocol = {
        "judge": judge.name,
        "judge's prompt": "MM-Vet's few-shot table (arXiv 2308.02490, Table 1)",
        "grades an answer": "1",
        "empty or missing answers": "0.0, not asked",
    }
    if not judge.deterministic:
        protocol["model, as the endpoint says"] = ", ".join(sorted(models))
    return Score(
        benchmark="mmvet",
        value=_mean100(values),
        metric="mean grade",
        split="test",
        questions=len(asked),
        missing=sum(key not in texts for key in asked),
        protocol=protocol,
        parts={name: _mean100(groups[name]) for name in sorted(groups, key=_part_order)},
        when=" to ".join(sorted({min(days), max(days)})) if days else "",
    )


def _questions(metadata: Path) -> dict[str, dict[str, Any]]:
    asked = read_json(metadata)
    if not isinstance(asked, dict) or not asked:
        raise UserError(f"{metadata}: must be an object of questions by id, as mm-vet.json is")
    for key, row in asked.items():
        with reading(metadata, key):
            if not isinstance(row["question"], str) or not isinstance(row["answer"], str):
                raise TypeError("question or answer is no text")
            names = set(row["capability"])
            if not names or not names <= set(CAPABILITIES):
                raise TypeError(f"capabilities are of {', '.join(CAPABILITIES)}, not {names}")
    return asked


def _part_order(name: str) -> tuple[str, int, list[int]]:
    kind, _, names = name.partition(": ")
    orders = [CAPABILITIES.index(one) for one in names.split("+")]
    return kind, len(orders), orders


def _mean100(values: list[float]) -> float:
    return 100.0 * sum(values) / len(values)
