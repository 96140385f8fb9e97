"""Miniature MMBench: a table with a row for each rotation of a question's options.

Row ``index + k * 1000000`` has the options moved on by k places; a question counts only if all its
rows are answered right (CircularEval). Pictures are base64 in the table, as in MMBench.
"""

from __future__ import annotations

import base64
import csv
import io
import random

from playground.benchmarks.choices import Choice, hint_for
from playground.benchmarks.files import Files, Row, encode_picture
from playground.benchmarks.prompts import LETTERS
from playground.benchmarks.scienceqa import draw_choice
from playground.world import Split

QUESTIONS = 80
ROTATION = 1_000_000
COLUMNS = (
    *("index", "question", "hint", *LETTERS, "answer", "category", "image", "source"),
    *("l2-category", "comment", "split"),
)

INSTANCE = "finegrained_perception (instance-level)"
CATEGORIES = {
    "existence of a noun": ("object_localization", INSTANCE),
    "existence of a colour": ("attribute_recognition", INSTANCE),
    "existence of a pair": ("attribute_comparison", "finegrained_perception (cross-instance)"),
    "colour of a noun": ("attribute_recognition", INSTANCE),
    "noun of a colour": ("object_localization", INSTANCE),
    "written word": ("ocr", INSTANCE),
    "background": ("image_scene", "coarse_perception"),
    "counting": ("object_localization", INSTANCE),
    "place": ("object_localization", INSTANCE),
    "which side": ("spatial_relationship", "finegrained_perception (cross-instance)"),
}
"""Category and l2-category of a kind of question, in MMBench's words."""


def _rows(index: int, choice: Choice, hint: str, image: str) -> list[Row]:
    """Return a row for each rotation of the options."""
    category, l2_category = CATEGORIES[choice.kind]
    count = len(choice.options)
    rows = []
    for turn in range(count):
        options = choice.options[turn:] + choice.options[:turn]
        rows.append(
            {
                "index": index + turn * ROTATION,
                "question": choice.question,
                "hint": hint,
                **dict(zip(LETTERS, options, strict=False)),
                "answer": LETTERS[(choice.answer - turn) % count],
                "category": category,
                "image": image,
                "source": "miniature world",
                "l2-category": l2_category,
                "split": "dev",
            }
        )
    return rows


def make_mmbench(seed: int, split: Split = "test") -> Files:
    """Make ``mmbench/``: one table; all first rows stand before all rotated ones."""
    files = Files("mmbench")
    rows: list[Row] = []
    for index in range(QUESTIONS):
        rng = random.Random(f"{seed}/mmbench/{index}")
        scene, choice = draw_choice(rng, split=split)
        image = base64.b64encode(encode_picture(scene, "jpg")).decode()
        files.scenes[files.path_of(str(index))] = scene.content()
        rows += _rows(index, choice, hint_for(rng, scene, choice), image)
    rows.sort(key=lambda row: int(row["index"]))
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, restval="", delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.questions = len(rows)
    files.add("mmbench_dev_20230712.tsv", table.getvalue().encode())
    return files
