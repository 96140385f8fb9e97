"""GQA's testdev_balanced split: exact match, as the official eval.py has its accuracy.

Answers are converted as LLaVA converts them: final full stops go, and the case is lowered. The
official script's other numbers (consistency, validity, plausibility, grounding, distribution) need
files that the split does not come with and are not computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llava_sea.errors import UserError
from llava_sea.eval.answers import Answer, by_id
from llava_sea.eval.score import Score
from llava_sea.eval.scorers.official import name_some, read_json, reading
from llava_sea.eval.scorers.vqa import Annotated, score_questions


def score(answers: Sequence[Answer], annotations: Path) -> Score:
    """Score answers to GQA.

    Returns:
        Accuracy. Parts are "open" (structural type query) and "binary" (every other type, as
        eval.py has it), "structural: TYPE" and "semantic: TYPE".

    Raises:
        UserError: if the annotations are not the official ones, empty or not balanced, if an
            answered question is not among them, or if a question has two different answers.
    """
    return score_questions(
        _questions(annotations),
        by_id(answers),
        lambda text, right: float(convert(text) == right[0]),
        annotations,
        benchmark="gqa",
        metric="accuracy",
        split="testdev_balanced",
        protocol={"answers": "final full stops off, in lower case", "comparison": "exact match"},
    )


def convert(text: str) -> str:
    """Return the answer as it is compared and submitted."""
    return text.rstrip(".").lower()


def _questions(annotations: Path) -> list[Annotated]:
    questions, unbalanced = [], []
    with reading(annotations, "the questions by id"):
        rows = dict(read_json(annotations).items())
    for key, row in rows.items():
        with reading(annotations, f"question {key}"):
            structural, semantic = row["types"]["structural"], row["types"]["semantic"]
            kinds = (
                "open" if structural == "query" else "binary",
                f"structural: {structural}",
                f"semantic: {semantic}",
            )
            questions.append(Annotated(key, (row["answer"],), kinds))
            if not row.get("isBalanced", True):
                unbalanced.append(key)
    if unbalanced:
        raise UserError(
            f"{annotations}: {name_some(unbalanced)} are not of the balanced questions, and GQA's "
            "accuracy is over balanced ones; give testdev_balanced_questions.json"
        )
    return questions
