"""Multiple choice from a question file of one's own: how many letters are right.

The file is LLaVA's jsonl with the right letter beside each question, e.g. Stanford Dogs as a choice
of four breeds: ``{"question_id", "image", "text", "answer": "B"}``, the text as LLaVA asks,
options as lines "A. ...", then "Answer with the option's letter from the given choices directly."

An answer is read as MMBench's (`llava_sea.eval.scorers.mmbench`): "B", "(B)", "B. pug", "The answer
is B" or the text of one option, "It is a pug". Anything else, an empty or missing answer and the
letter of an option that the question does not have among them, is wrong.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_sea.errors import UserError
from llava_sea.eval.answers import Answer, by_id
from llava_sea.eval.score import Score
from llava_sea.eval.scorers.mmbench import LETTERS, MATCHING, read_letter
from llava_sea.eval.scorers.official import check_ids, percent, read_jsonl

_OPTION = re.compile(rf"^([{LETTERS}])\. *(\S.*?) *$", re.MULTILINE)


@dataclass(frozen=True)
class _Choice:
    options: dict[str, str]
    answer: str
    category: str


def score(
    answers: Sequence[Answer], questions: Path, *, benchmark: str = "letters", split: str = "test"
) -> Score:
    """Score answers to multiple-choice questions.

    Args:
        answers: by question id.
        questions: LLaVA's jsonl with "answer" (A, B, C or D) in each line; "category" may be there.
        benchmark: the name that the score carries.
        split: and of the split.

    Returns:
        The accuracy; of its parts, "unread answers" is the share without a letter, the others are
        the accuracies of the categories.

    Raises:
        UserError: naming the line, if the question has no options, the answer is none of them, or
            an id is there twice; or if an answer is to no question of the file.
    """
    choices = _read(questions)
    texts = by_id(answers)
    check_ids(texts, choices, questions)
    letters = {key: read_letter(text, choices[key].options) for key, text in texts.items()}
    by_category: dict[str, list[bool]] = defaultdict(list)
    for key, choice in choices.items():
        by_category[choice.category].append(letters.get(key) == choice.answer)

    unread = sum(letter is None for letter in letters.values())
    parts = {"unread answers": percent(unread, len(choices))}
    for name in sorted(by_category.keys() - {""}):
        parts[f"category: {name}"] = percent(sum(by_category[name]), len(by_category[name]))
    return Score(
        benchmark=benchmark,
        value=percent(sum(map(sum, by_category.values())), len(choices)),
        metric="accuracy",
        split=split,
        questions=len(choices),
        missing=len(choices) - len(texts),
        protocol={
            "matching": MATCHING,
            "missing answers": "wrong",
        },
        parts=parts,
    )


def _read(path: Path) -> dict[str, _Choice]:
    """Read the questions by id."""
    choices: dict[str, _Choice] = {}
    for number, row in read_jsonl(path, ("question_id", "text", "answer")):
        where = f"{path}:{number}"
        options = dict(_OPTION.findall(str(row["text"])))
        if len(options) < 2:
            raise UserError(
                f'{where}: its "text" has {len(options)} options; write each on a line of its own, '
                'like "A. pug"'
            )
        answer = row["answer"]
        if answer not in list(options):  # a list: the answer may be anything that JSON has
            raise UserError(
                f'{where}: its "answer" is {answer!r} and must be one of {", ".join(options)}'
            )
        key = str(row["question_id"])
        if key in choices:
            raise UserError(f"{where}: question_id {key} is there twice; give each its own")
        choices[key] = _Choice(options, answer, str(row.get("category") or ""))
    if not choices:
        raise UserError(f"{path}: the file holds no questions")
    return choices
