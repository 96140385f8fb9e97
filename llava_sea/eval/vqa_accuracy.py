"""What the scorers of visual question answering share: records, the join by key, marks.

Questions and answers meet by key, never by order. An answer to a question that the annotations do
not have is an error, be the annotations a subset or not: it is the sign of another split's file. A
question without an answer is marked wrong and counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import fsum
from pathlib import Path
from typing import Any

from llava_sea.errors import UserError
from llava_sea.eval.score import Score
from llava_sea.eval.scorers.official import check_ids, name_some, read_jsonl

_HUMAN_ANSWERS = 10


@dataclass(frozen=True)
class Annotated:
    """A question as the annotations have it.

    Attributes:
        key: what answers are joined by.
        answers: ten human answers, or the one right answer.
        kinds: the parts of the score that it counts in, e.g. ``("yes/no",)``.
    """

    key: str
    answers: tuple[str, ...]
    kinds: tuple[str, ...] = ()


def vqa_accuracy(answer: str, human_answers: Sequence[str]) -> float:
    """Return the VQA accuracy of an answer, 0 to 1, by leaving each human answer out in turn.

    With a human answer left out, the answer is right by a third for each equal one among the rest,
    and by 1 at most; the mean over the left-out ones is the accuracy. Of ten, 1 equal answer gives
    0.3, 2 give 0.6, 3 give 0.9 and 4 or more give 1. (The short form min(1, equal / 3), which is
    often quoted, is another number.)

    Args:
        answer: normalised as the human answers are.
        human_answers: at least two.
    """
    equal, total = human_answers.count(answer), len(human_answers)
    left_out_equal = equal * min(3, equal - 1) if equal else 0
    left_out_other = (total - equal) * min(3, equal)
    return (left_out_equal + left_out_other) / (3 * total)


def score_questions(
    questions: Sequence[Annotated],
    texts: Mapping[str, str],
    mark: Callable[[str, tuple[str, ...]], float],
    *,
    annotations: Path,
    benchmark: str,
    metric: str,
    split: str,
    protocol: dict[str, str],
) -> Score:
    """Mark every question and average.

    Args:
        questions: all that the score is made of.
        texts: answers by key.
        mark: gives an answer's mark, 0 to 1, from the text and the annotated answers.
        annotations: the file, for messages.
        benchmark: as `Score` has it, like the rest.
        metric: see `Score`.
        split: see `Score`.
        protocol: see `Score`.

    Raises:
        UserError: if there are no questions, or answers to other questions.
    """
    if not questions:
        raise UserError(f"{annotations}: no questions; give the official annotations of the split")
    check_ids(texts, {question.key for question in questions}, annotations)
    marks: list[float] = []
    by_kind: defaultdict[str, list[float]] = defaultdict(list)
    for question in questions:
        text = texts.get(question.key)
        marks.append(0.0 if text is None else mark(text, question.answers))
        for kind in question.kinds:
            by_kind[kind].append(marks[-1])
    return Score(
        benchmark=benchmark,
        value=_percent(marks),
        metric=metric,
        split=split,
        questions=len(questions),
        missing=sum(question.key not in texts for question in questions),
        protocol=protocol,
        parts={kind: _percent(by_kind[kind]) for kind in sorted(by_kind)},
    )


def _percent(marks: Sequence[float]) -> float:
    return 100 * fsum(marks) / len(marks)


def refuse_twins(keys: Iterable[str], source: Path) -> None:
    """Raise a `UserError` that names what a file has twice."""
    if twins := [key for key, count in Counter(keys).items() if count > 1]:
        raise UserError(f"{source}: has {name_some(twins)} more than once; keep one of each")


def human_answers(answers: Any) -> tuple[str, ...]:
    """Return ten human answers, from texts or from ``{"answer": text, ...}``.

    Raises:
        TypeError: if they are not that; `reading` makes it a message.
    """
    if not isinstance(answers, list):
        raise TypeError("the human answers are not a list")
    texts = tuple(item["answer"] if isinstance(item, dict) else item for item in answers)
    if len(texts) != _HUMAN_ANSWERS or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{len(texts)} human answers, not {_HUMAN_ANSWERS} texts")
    return texts


def check_kind(kind: Any) -> str:
    """Return a question's type.

    Raises:
        TypeError: if it is no text; `reading` makes it a message.
    """
    if not isinstance(kind, str):
        raise TypeError(f"its type is no text but {kind!r}")
    return kind


@contextmanager
def reading(path: Path, place: str) -> Iterator[None]:
    """Make a record that is not as it should be a `UserError` that names it."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: {place}: not as the official file has it: {error!r}; fetch the file again"
        ) from error


def read_questions(path: Path) -> list[dict[str, Any]]:
    """Read LLaVA's question file, a JSON object a line with at least a "question_id".

    Raises:
        UserError: if it can't be read, has no questions, a line that is none, or an id twice.
    """
    questions = [row for _, row in read_jsonl(path, ("question_id",))]
    if not questions:
        raise UserError(f"{path}: no questions; give the question file of the split that was asked")
    refuse_twins((str(question["question_id"]) for question in questions), path)
    return questions
