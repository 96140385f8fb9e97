"""VizWiz by its official annotations, val's: the test split is scored on EvalAI alone.

Questions are known by their pictures, one question each, and answer files carry question ids, so
the question file says which picture an id is.

What is scored is what would be submitted (`llava_sea.eval.submissions_evalai`): an answer is first
normalised as M4C does, as LLaVA's are, and then by the rules of the VQA script, as VizWiz's own
script does (https://vizwiz.org/tasks-and-datasets/vqa/). The human answers are compared as the file
has them; they were published in that form, "unanswerable" among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llava_sea.eval.answers import Answer, by_id
from llava_sea.eval.normalise import normalise_m4c, normalise_vqa
from llava_sea.eval.score import Score
from llava_sea.eval.scorers.official import check_ids, read_json
from llava_sea.eval.vqa_accuracy import (
    Annotated,
    check_kind,
    human_answers,
    read_questions,
    reading,
    refuse_twins,
    score_questions,
    vqa_accuracy,
)


def score(
    answers: Sequence[Answer], annotations: Path, questions: Path, split: str = "val"
) -> Score:
    """Score answers to VizWiz.

    Args:
        answers: with the question file's ids.
        annotations: val.json.
        questions: the file that was asked, a JSON object a line with "question_id" and "image". A
            picture of the annotations that it lacks is a question without an answer.
        split: the name that the score carries.

    Returns:
        VQA accuracy, with that of each answer type ("yes/no", "number", "other", "unanswerable")
        as parts.

    Raises:
        UserError: if a file is not as it should be or empty, if an answered question is not in the
            question file or its picture not in the annotations, or if a question has two different
            answers.
    """
    texts = by_id(answers)
    images = images_by_id(questions)
    check_ids(texts, images, questions)
    return score_questions(
        _annotated(annotations),
        {images[question_id]: text for question_id, text in texts.items()},
        _mark,
        annotations=annotations,
        benchmark="vizwiz",
        metric="VQA accuracy",
        split=split,
        protocol={
            "answers": "normalised by M4C's rules, as submitted",
            "normalisation": "the VQA script's, of answers; human answers as published",
        },
    )


def images_by_id(questions: Path) -> dict[str, str]:
    """Return the pictures' names by question id, in the file's order.

    Raises:
        UserError: if the file is not as it should be, or has a picture twice.
    """
    images = {}
    for row in read_questions(questions):
        with reading(questions, f"question_id {row['question_id']}"):
            images[str(row["question_id"])] = str(row["image"])
    refuse_twins(images.values(), questions)
    return images


def _annotated(annotations: Path) -> list[Annotated]:
    questions = []
    with reading(annotations, "the list"):
        rows = list(read_json(annotations))
    for number, row in enumerate(rows, start=1):
        with reading(annotations, f"question {number}"):
            humans, kind = human_answers(row["answers"]), check_kind(row["answer_type"])
            questions.append(Annotated(str(row["image"]), humans, (kind,)))
    refuse_twins((question.key for question in questions), annotations)
    return questions


def _mark(text: str, humans: tuple[str, ...]) -> float:
    return vqa_accuracy(normalise_vqa(normalise_m4c(text)), humans)
