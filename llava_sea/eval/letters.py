"""``python -m llava_sea.eval.letters``: the accuracy of answers to multiple-choice questions.

The question file is one's own, LLaVA's jsonl with the right letter beside each question, e.g.
Stanford Dogs as a choice of four breeds: ``{"question_id", "image", "text", "answer": "B"}``, with
options as lines "A. ..." of the text. Answers are read as MMBench's (`mmbench.read_letter`);
anything else is wrong. The protocol is printed below the accuracy.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_sea.errors import UserError, run_command
from llava_sea.eval.answers import Answer, by_id, read_answers
from llava_sea.eval.score import Score, with_prompt
from llava_sea.eval.scorers.mmbench import LETTERS, MATCHING, read_letter
from llava_sea.eval.scorers.official import check_ids, percent, percents, read_jsonl
from llava_sea.terminal import say

_OPTION = re.compile(rf"^([{LETTERS}])\. *(\S.*?) *$", re.MULTILINE)


@dataclass(frozen=True)
class _Choice:
    options: dict[str, str]
    answer: str
    category: str


def score(answers: Sequence[Answer], questions: Path) -> Score:
    """Score answers to multiple-choice questions; these may have a "category".

    Returns:
        The accuracy; of its parts, "unread answers" is the share without a letter, the others are
        the accuracies of the categories.
    """
    choices = _read(questions)
    texts = by_id(answers)
    check_ids(texts, choices, questions)
    letters = {key: read_letter(text, choices[key].options) for key, text in texts.items()}
    right = {key: letters.get(key) == choice.answer for key, choice in choices.items()}
    unread = sum(letter is None for letter in letters.values())
    categories = {key: choice.category for key, choice in choices.items() if choice.category}
    parts = {"unread answers": percent(unread, len(choices))}
    parts |= percents((f"category: {name}", right[key]) for key, name in categories.items())
    return Score(
        benchmark=questions.stem,
        value=percent(sum(right.values()), len(choices)),
        metric="accuracy",
        split="test",
        questions=len(choices),
        missing=len(choices) - len(texts),
        protocol={"matching": MATCHING, "missing answers": "wrong"},
        parts=parts,
    )


def _read(path: Path) -> dict[str, _Choice]:
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        "python -m llava_sea.eval.letters", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--answers", type=Path, required=True, help="of llava_sea.eval.answer")
    parser.add_argument(
        "--questions", type=Path, required=True, help='the questions asked, with "answer" in each'
    )
    args = parser.parse_args(arguments)
    if not args.answers.is_file():
        raise UserError(f"--answers {args.answers}: there is no such file")
    answers = read_answers(args.answers)
    found = with_prompt(score(answers, args.questions), answers)
    missing = f", {found.missing} without an answer" if found.missing else ""
    say(f"{found.benchmark}: {found.value:.1f} % of {found.questions} questions right{missing}")
    for name, value in found.parts.items():
        say(f"  {name}: {value:.1f} %")
    say(f"Protocol: {args.questions}: {found.describe()}")


if __name__ == "__main__":
    run_command(main)
