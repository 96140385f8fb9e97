r"""Short answers, each question marked from 0 to 1: VQAv2, VizWiz, TextVQA, GQA.

VQAv2 (val2014) and VizWiz (val) are scored as EvalAI scores their test splits. The answer that
would be submitted is scored (`llava_sea.eval.submissions`): it is first normalised as M4C does, as
LLaVA's are, then

- for VQAv2 by the official script of 2021 (https://github.com/GT-Vision-Lab/VQA), which normalises
  the answer and the human answers only where the ten are not all the same. An answer that M4C
  changes for the worse ("it's" to "it 's") is lost here as it is on the server;
- for VizWiz by the same rules (https://vizwiz.org/tasks-and-datasets/vqa/). Its human answers are
  compared as the file has them; they were published in that form, "unanswerable" among them.

TextVQA's val split is scored as M4C's TextVQAAccuracyEvaluator scores it. LLaVA's question ids are
the images' and come again with every question about an image, so the question's text tells them
apart; it is read out of the stored prompt, ``question\nReference OCR token: a, b\ninstruction`` or
``question\ninstruction``. OCR tokens are worth about twelve points to LLaVA-1.5, so the protocol
says whether they were there.

GQA's testdev_balanced split is scored by exact match, as the official eval.py has its accuracy. Its
other numbers (consistency, validity, ...) need files that the split does not come with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from pathlib import Path
from typing import Any

from llava_sea.errors import UserError
from llava_sea.eval.answers import Answer, by_id
from llava_sea.eval.normalise import normalise_m4c, normalise_vqa, one_line
from llava_sea.eval.score import Score
from llava_sea.eval.scorers.official import (
    check_ids,
    name_some,
    percent,
    percents,
    read_json,
    read_questions,
    reading,
    refuse_twins,
)

_HUMAN_ANSWERS = 10
_OCR = "\nReference OCR token:"


@dataclass(frozen=True)
class Annotated:
    """A question's key, its ten human answers (or the right one), and its parts of the score."""

    key: str
    answers: tuple[str, ...]
    kinds: tuple[str, ...] = ()


def vqa_accuracy(answer: str, human_answers: Sequence[str]) -> float:
    """Return the VQA accuracy of an answer, 0 to 1, by leaving each human answer out in turn.

    With a human answer left out, the answer is right by a third for each equal one among the rest,
    and by 1 at most; the mean over the left-out ones is the accuracy. Of ten, 1 equal answer gives
    0.3, 2 give 0.6, 3 give 0.9 and 4 or more give 1. (The short form min(1, equal / 3), which is
    often quoted, is another number.)
    """
    equal, total = human_answers.count(answer), len(human_answers)
    left_out_equal = equal * min(3, equal - 1) if equal else 0
    left_out_other = (total - equal) * min(3, equal)
    return (left_out_equal + left_out_other) / (3 * total)


def score_vqav2(answers: Sequence[Answer], annotations: Path) -> Score:
    """Score answers to VQAv2, with the accuracy of each answer type as parts."""
    with reading(annotations, 'the list "annotations"'):
        rows = list(read_json(annotations)["annotations"])
    return _score_questions(
        _annotated(rows, "question_id", annotations),
        by_id(answers),
        _mark_vqav2,
        annotations,
        benchmark="vqav2",
        metric="VQA accuracy",
        split="val2014",
        protocol={
            "answers": "normalised by M4C's rules, as submitted",
            "normalisation": "the VQA script's of 2021, where the ten human answers differ",
        },
    )


def _mark_vqav2(text: str, humans: tuple[str, ...]) -> float:
    answer = normalise_m4c(text)
    humans = tuple(one_line(human) for human in humans)
    if len(set(humans)) > 1:
        answer = normalise_vqa(answer)
        humans = tuple(normalise_vqa(human) for human in humans)
    return vqa_accuracy(answer, humans)


def score_vizwiz(answers: Sequence[Answer], annotations: Path, questions: Path) -> Score:
    """Score answers to VizWiz, with the accuracy of each answer type as parts.

    Its questions are known by their images, one question each, and answer files carry question
    ids, so the question file says which image an id is. An image of the annotations that it lacks
    is a question without an answer.
    """
    texts, images = by_id(answers), images_by_id(questions)
    check_ids(texts, images, questions)
    with reading(annotations, "the list"):
        rows = list(read_json(annotations))
    return _score_questions(
        _annotated(rows, "image", annotations),
        {images[question_id]: text for question_id, text in texts.items()},
        lambda text, humans: vqa_accuracy(normalise_vqa(normalise_m4c(text)), humans),
        annotations,
        benchmark="vizwiz",
        metric="VQA accuracy",
        split="val",
        protocol={
            "answers": "normalised by M4C's rules, as submitted",
            "normalisation": "the VQA script's, of answers; human answers as published",
        },
    )


def images_by_id(questions: Path) -> dict[str, str]:
    """Return the images' names by question id, in the order of VizWiz's question file."""
    images = {}
    for row in read_questions(questions):
        with reading(questions, f"question_id {row['question_id']}"):
            images[str(row["question_id"])] = str(row["image"])
    refuse_twins(images.values(), questions)
    return images


def score_textvqa(answers: Sequence[Answer], annotations: Path) -> Score:
    """Score answers to TextVQA; questions that are asked twice about an image share the answer."""
    keys = [_textvqa_key(answer.question_id, _question_of(answer)) for answer in answers]
    with_tokens = sum(_OCR in answer.prompt for answer in answers)
    told = "yes" if with_tokens else "no"
    if not answers:
        told = "unknown: no answers"
    elif 0 < with_tokens < len(answers):
        told = f"in {with_tokens} of {len(answers)} prompts"
    questions = []
    with reading(annotations, 'the list "data"'):
        rows = list(read_json(annotations)["data"])
    for number, row in enumerate(rows, start=1):
        with reading(annotations, f"question {number}"):
            key = _textvqa_key(row["image_id"], row["question"])
            questions.append(Annotated(key, _human_answers(row["answers"])))
    return _score_questions(
        questions,
        by_id(Answer(key, "", a.text) for key, a in zip(keys, answers, strict=True)),
        lambda text, humans: vqa_accuracy(normalise_m4c(text), [*map(normalise_m4c, humans)]),
        annotations,
        benchmark="textvqa",
        metric="VQA accuracy",
        split="val",
        protocol={"normalisation": "M4C's, of answers and human answers", "OCR tokens": told},
    )


def _question_of(answer: Answer) -> str:
    """Return the question that the prompt asks, without OCR tokens and instruction."""
    question, tokens, _ = answer.prompt.partition(_OCR)
    return question if tokens else answer.prompt.rpartition("\n")[0] or answer.prompt


def _textvqa_key(image_id: int | str, question: str) -> str:
    return f"{image_id} {question.strip().lower()}"


def score_gqa(answers: Sequence[Answer], annotations: Path) -> Score:
    """Score answers to GQA.

    Parts are "open" (structural type query) and "binary" (every other type, as eval.py has it),
    "structural: TYPE" and "semantic: TYPE".
    """
    questions, unbalanced = [], []
    with reading(annotations, "the questions by id"):
        rows = dict(read_json(annotations).items())
    for key, row in rows.items():
        with reading(annotations, f"question {key}"):
            structural, semantic = row["types"]["structural"], row["types"]["semantic"]
            kind = "open" if structural == "query" else "binary"
            kinds = (kind, f"structural: {structural}", f"semantic: {semantic}")
            questions.append(Annotated(key, (row["answer"],), kinds))
            if not row.get("isBalanced", True):
                unbalanced.append(key)
    if unbalanced:
        raise UserError(
            f"{annotations}: {name_some(unbalanced)} are not of the balanced questions, and GQA's "
            "accuracy is over balanced ones; give testdev_balanced_questions.json"
        )
    return _score_questions(
        questions,
        by_id(answers),
        lambda text, right: float(convert_gqa(text) == right[0]),
        annotations,
        benchmark="gqa",
        metric="accuracy",
        split="testdev_balanced",
        protocol={"answers": "final full stops off, in lower case", "comparison": "exact match"},
    )


def convert_gqa(text: str) -> str:
    """Return the answer as LLaVA converts it to be compared and submitted."""
    return text.rstrip(".").lower()


def _score_questions(
    questions: Sequence[Annotated],
    texts: Mapping[str, str],
    mark: Callable[[str, tuple[str, ...]], float],
    annotations: Path,
    **fields: Any,
) -> Score:
    """Mark every question's text from 0 to 1 and average; `fields` are the `Score`'s others."""
    if not questions:
        raise UserError(f"{annotations}: no questions; give the official annotations of the split")
    check_ids(texts, {question.key for question in questions}, annotations)
    marks = [mark(texts[q.key], q.answers) if q.key in texts else 0.0 for q in questions]
    pairs = zip(questions, marks, strict=True)
    return Score(
        value=percent(fsum(marks), len(marks)),
        questions=len(questions),
        missing=sum(question.key not in texts for question in questions),
        parts=percents((kind, marked) for question, marked in pairs for kind in question.kinds),
        **fields,
    )


def _human_answers(answers: Any) -> tuple[str, ...]:
    """Return ten human answers, from texts or from ``{"answer": text, ...}``."""
    if not isinstance(answers, list):
        raise TypeError("the human answers are not a list")
    texts = tuple(item["answer"] if isinstance(item, dict) else item for item in answers)
    if len(texts) != _HUMAN_ANSWERS or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{len(texts)} human answers, not {_HUMAN_ANSWERS} texts")
    return texts


def _annotated(rows: Sequence[Any], key: str, annotations: Path) -> list[Annotated]:
    """Return the questions of VQAv2's or VizWiz's annotations; `key` names the joining field."""
    questions = []
    for number, row in enumerate(rows, start=1):
        with reading(annotations, f"annotation {number}"):
            humans, kind = _human_answers(row["answers"]), row["answer_type"]
            if not isinstance(kind, str):
                raise TypeError(f"its type is no text but {kind!r}")
            questions.append(Annotated(str(row[key]), humans, (kind,)))
    return questions
