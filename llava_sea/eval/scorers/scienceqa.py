"""ScienceQA-IMG: the accuracy over the test problems that have an image.

An answer is read as LLaVA reads it: an option's letter alone; or a text that starts "X. "; or one
that says "The answer is X." once. Anything else, "A." and "(A)" among them, is unread and wrong, as
is the letter of an option that the problem does not have, an empty answer and a missing one.

LLaVA takes the problems whose stored prompt has an image, which loses those without an answer from
the count; here the problems file says which have one, so they are counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_sea.errors import UserError
from llava_sea.eval.answers import Answer, by_id
from llava_sea.eval.score import Score
from llava_sea.eval.scorers.official import check_ids, percent, percents, read_json, reading

LETTERS = "ABCDE"  # as many as a problem has options at most
_SENTENCE = re.compile(r"The answer is ([A-Z]).")  # the last mark is any, as in LLaVA


def read_letter(text: str) -> str | None:
    """Return the letter that an answer gives, None where it gives none."""
    if text[:1] in tuple(LETTERS) and text[1:3] in ("", ". "):
        return text[0]
    found: list[str] = _SENTENCE.findall(text)
    return found[0] if len(found) == 1 else None


def score(answers: Sequence[Answer], problems: Path, splits: Path) -> Score:
    """Score answers to ScienceQA; answers to problems without an image may be among them.

    Args:
        answers: by problem id.
        problems: problems.json, ``{pid: {"choices", "answer", "image", "subject", ...}}``.
        splits: pid_splits.json, ``{split: [pid, ...]}``.

    Returns:
        The accuracy over the problems with an image; of its parts, "all" is over every problem of
        the split, and there only if one without an image has an answer.
    """
    asked = _problems(problems, splits)
    texts = by_id(answers)
    check_ids(texts, asked, splits)
    images = [pid for pid, problem in asked.items() if problem["image"]]
    if not images:
        raise UserError(f"{problems}: no problem of the split test has an image")
    letters = {pid: read_letter(text) for pid, text in texts.items()}
    right = {pid: letters.get(pid) == LETTERS[asked[pid]["answer"]] for pid in asked}
    parts = {}
    if any(pid in texts for pid in asked.keys() - set(images)):
        parts["all"] = percent(sum(right.values()), len(asked))
    subjects = {pid: subject for pid in images if (subject := asked[pid].get("subject"))}
    parts |= percents((f"subject: {name}", right[pid]) for pid, name in subjects.items())
    unread = sum(pid in texts and letters[pid] is None for pid in images)
    parts["unread answers"] = percent(unread, len(images))
    return Score(
        benchmark="scienceqa",
        value=percent(sum(right[pid] for pid in images), len(images)),
        metric="IMG-accuracy",
        split="test",
        questions=len(images),
        missing=sum(pid not in texts for pid in images),
        protocol={
            "reading": 'LLaVA\'s: a letter alone, "X. ..." or "The answer is X."; else wrong',
            "missing answers": "wrong",
        },
        parts=parts,
    )


def _problems(problems: Path, splits: Path) -> dict[str, dict[str, Any]]:
    pids, everything = read_json(splits), read_json(problems)
    if not isinstance(pids, dict) or not isinstance(pids.get("test"), list):
        raise UserError(f'{splits}: has no list of ids "test"; fetch the official file again')
    asked: dict[str, dict[str, Any]] = {}
    for pid in map(str, pids["test"]):
        with reading(problems, f"problem {pid}"):
            asked[pid] = problem = everything[pid]
            answer, choices, _ = problem["answer"], problem["choices"], problem["image"]
            if type(answer) is not int or not 0 <= answer < len(choices) <= len(LETTERS):
                raise TypeError(f"the answer {answer!r} is no index of {len(choices)} choices")
    return asked
