"""VQAv2 by its official annotations, val2014's: the test splits are scored on EvalAI alone.

What is scored is what would be submitted (`llava_sea.eval.submissions_evalai`): an answer is first
normalised as M4C does, as LLaVA's are, and then goes through the official script of 2021
(https://github.com/GT-Vision-Lab/VQA). That script normalises the answer and the human answers only
where the ten are not all the same, and compares the texts as they are otherwise. So an answer that
M4C changes for the worse ("it's" to "it 's") is lost here as it is on the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llava_sea.eval.answers import Answer, by_id
from llava_sea.eval.normalise import normalise_m4c, normalise_vqa, one_line
from llava_sea.eval.score import Score
from llava_sea.eval.scorers.official import read_json
from llava_sea.eval.vqa_accuracy import (
    Annotated,
    check_kind,
    human_answers,
    reading,
    refuse_twins,
    score_questions,
    vqa_accuracy,
)


def score(answers: Sequence[Answer], annotations: Path, split: str = "val2014") -> Score:
    """Score answers to VQAv2.

    Args:
        answers: with the official question ids.
        annotations: v2_mscoco_val2014_annotations.json.
        split: the name that the score carries.

    Returns:
        VQA accuracy, with that of each answer type ("yes/no", "number", "other") as parts.

    Raises:
        UserError: if the annotations are not the official ones or empty, if an answered question
            is not among them, or if a question has two different answers.
    """
    return score_questions(
        _questions(annotations),
        by_id(answers),
        _mark,
        annotations=annotations,
        benchmark="vqav2",
        metric="VQA accuracy",
        split=split,
        protocol={
            "answers": "normalised by M4C's rules, as submitted",
            "normalisation": "the VQA script's of 2021, where the ten human answers differ",
        },
    )


def _questions(annotations: Path) -> list[Annotated]:
    questions = []
    with reading(annotations, 'the list "annotations"'):
        rows = list(read_json(annotations)["annotations"])
    for number, row in enumerate(rows, start=1):
        with reading(annotations, f"annotation {number}"):
            humans, kind = human_answers(row["answers"]), check_kind(row["answer_type"])
            questions.append(Annotated(str(row["question_id"]), humans, (kind,)))
    refuse_twins((question.key for question in questions), annotations)
    return questions


def _mark(text: str, humans: tuple[str, ...]) -> float:
    answer = normalise_m4c(text)
    humans = tuple(one_line(human) for human in humans)
    if len(set(humans)) > 1:
        answer = normalise_vqa(answer)
        humans = tuple(normalise_vqa(human) for human in humans)
    return vqa_accuracy(answer, humans)
