"""``python -m llava_sea.eval.letters``: the accuracy of answers to multiple-choice questions.

Below it stands what it depends on, as below the table of the eight.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from llava_sea.errors import UserError, run_command
from llava_sea.eval.answers import read_answers
from llava_sea.eval.asked import with_prompt
from llava_sea.eval.scorers.letters import score
from llava_sea.terminal import say


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
    found = score(answers, args.questions, benchmark=args.questions.stem)
    found = with_prompt(found, answers)
    missing = f", {found.missing} without an answer" if found.missing else ""
    say(f"{found.benchmark}: {found.value:.1f} % of {found.questions} questions right{missing}")
    for name, value in found.parts.items():
        say(f"  {name}: {value:.1f} %")
    say(f"Protocol: {args.questions}: {found.describe()}")


if __name__ == "__main__":
    run_command(main)
