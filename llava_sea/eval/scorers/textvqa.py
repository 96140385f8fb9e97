"""TextVQA's val split, as M4C's TextVQAAccuracyEvaluator scores it.

LLaVA's question ids are the images' and come again with every question about an image. The
question's text tells them apart; it is read out of the stored prompt, with OCR tokens or without:

    question[newline]Reference OCR token: a, b, c[newline]instruction
    question[newline]instruction

OCR tokens are worth about twelve points to LLaVA-1.5, so the protocol says whether they were there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llava_sea.errors import UserError
from llava_sea.eval.answers import Answer, by_id
from llava_sea.eval.normalise import normalise_m4c
from llava_sea.eval.score import Score
from llava_sea.eval.scorers.official import read_json, reading
from llava_sea.eval.scorers.vqa import Annotated, human_answers, score_questions, vqa_accuracy

_OCR = "\nReference OCR token:"


def score(answers: Sequence[Answer], annotations: Path) -> Score:
    """Score answers to TextVQA.

    Returns:
        VQA accuracy. Questions that the annotations ask twice about an image share the answer.

    Raises:
        UserError: if the annotations are not the official ones or empty, if an answer has no
            prompt, if an answered question is not among them, or if a question has two different
            answers.
    """
    keyed = [
        Answer(_key(answer.question_id, question_of(answer)), answer.prompt, answer.text)
        for answer in answers
    ]
    return score_questions(
        _questions(annotations),
        by_id(keyed),
        _mark,
        annotations,
        benchmark="textvqa",
        metric="VQA accuracy",
        split="val",
        protocol={
            "normalisation": "M4C's, of answers and human answers",
            "OCR tokens": _ocr_tokens(answers),
        },
    )


def question_of(answer: Answer) -> str:
    """Return the question that the prompt asks, without OCR tokens and instruction.

    Raises:
        UserError: if there is no prompt.
    """
    question = answer.prompt.partition(_OCR)[0]
    if question == answer.prompt:
        question = answer.prompt.rpartition("\n")[0] or answer.prompt
    if not question.strip():
        raise UserError(
            f"question_id {answer.question_id}: the answer has no question in its prompt, "
            f"{answer.prompt!r}; an image has several questions, and the prompt says which"
        )
    return question


def _key(image_id: int | str, question: str) -> str:
    return f"{image_id} {question.strip().lower()}"


def _ocr_tokens(answers: Sequence[Answer]) -> str:
    """Return what the protocol says about OCR tokens."""
    if not answers:
        return "unknown: no answers"
    with_tokens = sum(_OCR in answer.prompt for answer in answers)
    if 0 < with_tokens < len(answers):
        return f"in {with_tokens} of {len(answers)} prompts"
    return "yes" if with_tokens else "no"


def _questions(annotations: Path) -> list[Annotated]:
    questions = []
    with reading(annotations, 'the list "data"'):
        rows = list(read_json(annotations)["data"])
    for number, row in enumerate(rows, start=1):
        with reading(annotations, f"question {number}"):
            key = _key(row["image_id"], row["question"])
            questions.append(Annotated(key, human_answers(row["answers"])))
    return questions


def _mark(text: str, humans: tuple[str, ...]) -> float:
    return vqa_accuracy(normalise_m4c(text), [normalise_m4c(human) for human in humans])
