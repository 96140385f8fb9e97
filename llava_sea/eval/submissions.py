"""Files for servers: EvalAI (VQAv2, VizWiz), GQA's own eval.py, OpenCompass (MMBench).

Names, keys and columns are LLaVA's. The question file decides which questions a file has and in
which order. A file is whole or not there. All writers raise a `UserError` if the question file is
not as it should be, if an answered question is not in it, or if a question has two different
answers; all but VQAv2's if a question has no answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_sea.errors import UserError, import_extra
from llava_sea.eval.answers import Answer, by_id
from llava_sea.eval.normalise import normalise_m4c
from llava_sea.eval.scorers.mmbench import read_table
from llava_sea.eval.scorers.official import check_ids, name_some, read_questions
from llava_sea.eval.scorers.vqa import convert_gqa, images_by_id
from llava_sea.files import open_atomically, write_atomically

GQA_FILE = "testdev_balanced_predictions.json"
"""Where GQA's eval.py looks."""

MMBENCH_DROPPED = ("hint", "category", "source", "image", "comment", "l2-category")
_CELL_LIMIT = 32_767  # characters, Excel's
_UNWRITABLE = re.compile(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # in XML


def write_vqav2(answers: Sequence[Answer], questions: Path, path: Path) -> None:
    """Write VQAv2's submission, ``[{"question_id", "answer"}]``, answers normalised as M4C does.

    EvalAI wants all of test2015 for either phase, so `questions` is
    llava_vqav2_mscoco_test2015.jsonl also where test-dev alone was asked. Questions that were not
    asked get "": the file's score in test-dev means something, its score in test-std nothing.
    """
    ids = [row["question_id"] for row in read_questions(questions)]
    texts = _texts(answers, [str(each) for each in ids], questions, complete=False)
    rows = [
        {"question_id": each, "answer": normalise_m4c(texts.get(str(each), ""))} for each in ids
    ]
    _write_json(rows, path)


def write_vizwiz(answers: Sequence[Answer], questions: Path, path: Path) -> None:
    """Write VizWiz's submission, ``[{"image", "answer"}]``, answers normalised as M4C does."""
    images = images_by_id(questions)
    texts = _texts(answers, list(images), questions)
    rows = [{"image": image, "answer": normalise_m4c(texts[key])} for key, image in images.items()]
    _write_json(rows, path)


def write_gqa(answers: Sequence[Answer], questions: Path, path: Path) -> None:
    """Write GQA's predictions, ``[{"questionId", "prediction"}]``, in lower case."""
    ids = [str(row["question_id"]) for row in read_questions(questions)]
    texts = _texts(answers, ids, questions)
    rows = [{"questionId": each, "prediction": convert_gqa(texts[each])} for each in ids]
    _write_json(rows, path)


def write_mmbench(
    answers: Sequence[Answer], table: Path, path: Path, *, allow_missing: bool = False
) -> None:
    """Write MMBench's .xlsx: some columns of the table go, prediction comes after the options.

    With `allow_missing` a row without an answer has an empty cell, and counts as wrong.
    """
    rows = read_table(table)
    texts = _texts(answers, [row["index"] for row in rows], table, complete=not allow_missing)
    columns = [name for name in rows[0] if name.lower() not in MMBENCH_DROPPED]
    options = [place for place, name in enumerate(columns) if name in ("A", "B", "C", "D")]
    columns.insert(options[-1] + 1, "prediction")
    _write_xlsx(columns, [row | {"prediction": texts.get(row["index"], "")} for row in rows], path)


def _texts(
    answers: Sequence[Answer], ids: Sequence[str], questions: Path, *, complete: bool = True
) -> dict[str, str]:
    texts = by_id(answers)
    check_ids(texts, set(ids), questions)
    missing = [each for each in ids if each not in texts]
    if missing and complete:
        raise UserError(
            f"{questions}: {len(missing):,} of {len(ids):,} questions have no answer: "
            f"{name_some(missing)}; answer them, then write the file"
        )
    return texts


def _write_json(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(rows).encode())


def _write_xlsx(columns: Sequence[str], rows: Sequence[Mapping[str, str]], path: Path) -> None:
    openpyxl = import_extra("openpyxl", "eval")
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(list(columns))
    for number, row in enumerate(rows, start=2):
        for column, name in enumerate(columns, start=1):
            text = row[name]
            if len(text) > _CELL_LIMIT:
                raise UserError(
                    f"{path}: index {row['index']}: {name} has {len(text)} characters, a cell "
                    f"takes {_CELL_LIMIT}: {text[:60]!r}..."
                )
            if name == "index":
                sheet.cell(number, column, int(text))
            elif text:
                cell = sheet.cell(number, column, _UNWRITABLE.sub(" ", text))
                cell.data_type = "s"  # an answer that begins with "=" is no formula
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomically(path) as file:
        book.save(file)
