"""Files for EvalAI (VQAv2, VizWiz) and for GQA's own eval.py, with LLaVA's names and keys.

The question file decides which questions a file has and in which order. A file is whole or not
there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_sea.errors import UserError
from llava_sea.eval.answers import Answer, by_id
from llava_sea.eval.normalise import normalise_m4c
from llava_sea.eval.scorers.gqa import convert
from llava_sea.eval.scorers.official import check_ids, name_some
from llava_sea.eval.scorers.vizwiz import images_by_id
from llava_sea.eval.vqa_accuracy import read_questions
from llava_sea.files import write_atomically

GQA_FILE = "testdev_balanced_predictions.json"


def write_vqav2(answers: Sequence[Answer], questions: Path, path: Path) -> int:
    """Write VQAv2's submission, ``[{"question_id", "answer"}]``, answers normalised as M4C does.

    EvalAI wants all of test2015 for either phase, so `questions` is
    llava_vqav2_mscoco_test2015.jsonl also where test-dev alone was asked. What was not asked gets
    "": such a file's score in test-dev means something, and its score in test-std nothing.

    Args:
        answers: with the official question ids.
        questions: decides the ids.
        path: the file to write, e.g. answers_upload/SPLIT/CKPT.json.

    Returns:
        How many questions got "" for want of an answer.

    Raises:
        UserError: if the question file is not as it should be, if an answered question is not in
            it, or if a question has two different answers.
    """
    texts = by_id(answers)
    ids = [row["question_id"] for row in read_questions(questions)]
    check_ids(texts, set(map(str, ids)), questions)
    rows = [
        {"question_id": each, "answer": normalise_m4c(texts.get(str(each), ""))} for each in ids
    ]
    _write(rows, path)
    return len(ids) - len(texts)


def write_vizwiz(answers: Sequence[Answer], questions: Path, path: Path) -> None:
    """Write VizWiz's submission, ``[{"image", "answer"}]``, answers normalised as M4C does.

    Args:
        answers: with the question file's ids.
        questions: llava_test.jsonl.
        path: the file to write, e.g. answers_upload/CKPT.json.

    Raises:
        UserError: as `write_vqav2`, and if a question has no answer.
    """
    texts, images = by_id(answers), images_by_id(questions)
    _refuse_incomplete(texts, list(images), questions)
    _write(
        [
            {"image": image, "answer": normalise_m4c(texts[question_id])}
            for question_id, image in images.items()
        ],
        path,
    )


def write_gqa(answers: Sequence[Answer], questions: Path, path: Path) -> None:
    """Write GQA's predictions, ``[{"questionId", "prediction"}]``, in lower case.

    Args:
        answers: with the official question ids.
        questions: llava_gqa_testdev_balanced.jsonl.
        path: the file to write; eval.py looks for testdev_balanced_predictions.json (`GQA_FILE`).

    Raises:
        UserError: as `write_vqav2`, and if a question has no answer: eval.py stops there.
    """
    texts = by_id(answers)
    ids = [str(row["question_id"]) for row in read_questions(questions)]
    _refuse_incomplete(texts, ids, questions)
    _write([{"questionId": each, "prediction": convert(texts[each])} for each in ids], path)


def _refuse_incomplete(texts: Mapping[str, str], ids: Sequence[str], questions: Path) -> None:
    check_ids(texts, set(ids), questions)
    if missing := [each for each in ids if each not in texts]:
        raise UserError(
            f"{questions}: {len(missing):,} of {len(ids):,} questions have no answer: "
            f"{name_some(missing)}; answer them, then write the file"
        )


def _write(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(rows).encode())
