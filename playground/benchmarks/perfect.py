"""What a model that errs nowhere would answer, read from the files alone.

Rows are as LLaVA's runners write them, so scorers can be tried without a model: each benchmark's
perfect answers must score 100. Limits: works on the miniature files; real ones hold the same keys,
but only some of their splits hold the answers.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from playground.benchmarks.absent import NO_ANSWER
from playground.benchmarks.open_questions import plain_answer
from playground.benchmarks.prompts import LETTER, LETTERS, with_options

Row = dict[str, Any]


def _json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def _lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        yield from (json.loads(line) for line in file)


def _row(line: Row, text: str) -> Row:
    return {"question_id": line["question_id"], "prompt": line["text"], "text": text}


def _most_frequent(answers: list[str]) -> str:
    return Counter(answers).most_common(1)[0][0]


def perfect_vqav2(folder: Path) -> list[Row]:
    """Answer ``vqav2/``."""
    known = _json(folder / "v2_mscoco_val2014_annotations.json")["annotations"]
    answers = {entry["question_id"]: entry["multiple_choice_answer"] for entry in known}
    lines = _lines(folder / "llava_vqav2_mscoco_val2014.jsonl")
    return [_row(line, answers[line["question_id"]]) for line in lines]


def perfect_gqa(folder: Path) -> list[Row]:
    """Answer ``gqa/``."""
    known = _json(folder / "data" / "testdev_balanced_questions.json")
    lines = _lines(folder / "llava_gqa_testdev_balanced.jsonl")
    return [_row(line, known[line["question_id"]]["answer"]) for line in lines]


def perfect_vizwiz(folder: Path) -> list[Row]:
    """Answer ``vizwiz/``, as the prompt asks where there is no answer."""
    known = {entry["image"]: entry for entry in _json(folder / "val.json")}
    rows = []
    for line in _lines(folder / "llava_val.jsonl"):
        entry = known[line["image"]]
        text = _most_frequent([answer["answer"] for answer in entry["answers"]])
        rows.append(_row(line, text if entry["answerable"] else NO_ANSWER))
    return rows


def perfect_textvqa(folder: Path, *, ocr: bool = True) -> list[Row]:
    """Answer ``textvqa/``; `ocr` says which of the two question files."""
    known = {
        (entry["image_id"], entry["question"]): _most_frequent(entry["answers"])
        for entry in _json(folder / "TextVQA_0.5.1_val.json")["data"]
    }
    name = "llava_textvqa_val_v051_ocr.jsonl" if ocr else "llava_textvqa_val_v051.jsonl"
    return [
        _row(line, known[line["question_id"], line["text"].partition("\n")[0]])
        for line in _lines(folder / name)
    ]


def perfect_scienceqa(folder: Path) -> list[Row]:
    """Answer ``scienceqa/`` with letters."""
    rows = []
    for record in _json(folder / "llava_test_CQM-A.json"):
        human, model = record["conversations"]
        prompt = f"{human['value']}\n{LETTER}"
        rows.append({"question_id": record["id"], "prompt": prompt, "text": model["value"]})
    return rows


def perfect_pope(folder: Path) -> list[Row]:
    """Answer ``pope/``; labels and questions are joined by the order of lines, as in POPE."""
    labels = {
        path.stem.removeprefix("coco_pope_"): [entry["label"] for entry in _lines(path)]
        for path in (folder / "coco").glob("coco_pope_*.json")
    }
    left = {category: iter(answers) for category, answers in labels.items()}
    lines = _lines(folder / "llava_pope_test.jsonl")
    return [_row(line, next(left[line["category"]])) for line in lines]


def perfect_mmbench(folder: Path) -> list[Row]:
    """Answer ``mmbench/``: a row for each row of the table, rotated or not."""
    rows = []
    csv.field_size_limit(2**31 - 1)  # pictures are fields
    with (folder / "mmbench_dev_20230712.tsv").open(encoding="utf-8", newline="") as file:
        for entry in csv.DictReader(file, delimiter="\t"):
            options = [entry[letter] for letter in LETTERS if entry[letter]]
            rows.append(
                {
                    "question_id": int(entry["index"]),
                    "round_id": 0,
                    "prompt": with_options(entry["question"], options, entry["hint"]),
                    "text": entry["answer"],
                    "options": options,
                    "option_char": list(LETTERS[: len(options)]),
                }
            )
    return rows


def perfect_mmvet(folder: Path) -> list[Row]:
    """Answer ``mm-vet/``: all parts of a ground truth, or one of its alternatives."""
    known = _json(folder / "mm-vet.json")
    lines = _lines(folder / "llava-mm-vet.jsonl")
    return [
        _row(line, plain_answer(known[f"v1_{line['question_id']}"]["answer"])) for line in lines
    ]


def perfect_text_only(folder: Path) -> list[Row]:
    """Answer ``text_only.jsonl`` in the output folder."""
    return [_row(line, line["answer"]) for line in _lines(folder / "text_only.jsonl")]


PERFECT: dict[str, Callable[[Path], list[Row]]] = {
    "vqav2": perfect_vqav2,
    "gqa": perfect_gqa,
    "vizwiz": perfect_vizwiz,
    "textvqa": perfect_textvqa,
    "scienceqa": perfect_scienceqa,
    "pope": perfect_pope,
    "mmbench": perfect_mmbench,
    "mm-vet": perfect_mmvet,
}
"""By the name of the benchmark's folder, which is also what the functions take."""


def perfect_answers(folder: Path) -> list[Row]:
    """Answer a benchmark perfectly.

    Args:
        folder: the benchmark's own folder (``.../vqav2``).

    Returns:
        Rows ``{"question_id", "prompt", "text"}`` in the order of the questions.
    """
    return PERFECT[folder.name](folder)
