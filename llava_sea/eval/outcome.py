"""A task of a benchmark, and its outcome: a score, or a file for the server that scores it.

``scores.json`` keeps a checkpoint's outcomes beside its answers. Scores that servers return come
from a file that the user keeps: ``{"CHECKPOINT": {"vqav2-test-dev2015": 78.5}}``, with the names of
the table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_sea.errors import UserError
from llava_sea.eval.answers import Answer
from llava_sea.eval.judge import Judge
from llava_sea.eval.score import Score
from llava_sea.files import read_json, write_atomically


@dataclass(frozen=True)
class Submission:
    """A file, and the server that scores it."""

    path: Path
    server: str


Outcome = Score | Submission


@dataclass(frozen=True)
class Answered:
    """A task's answers, as `Task.finish` takes them.

    Attributes:
        data: the benchmarks' folder, LLaVA's ``playground/data/eval``.
        questions: the question file.
        answers: to its questions.
        folder: gets the files that scoring or a submission makes.
        judge: grades open answers; None where nobody was named.
    """

    data: Path
    questions: Path
    answers: Sequence[Answer]
    folder: Path
    judge: Judge | None = None


@dataclass(frozen=True)
class Task:
    """A benchmark on one of its splits.

    Attributes:
        benchmark: its key, e.g. "vqav2".
        title: its name, e.g. "VQAv2".
        split: the part that is asked.
        questions: the question file, below the benchmarks' folder.
        images: the folder of its images; None where the question file holds them.
        needs: other files that scoring or the submission reads.
        source: where all of them are to be had.
        finish: scores the answers or writes the submission.
        max_new_tokens: longest answer, LLaVA's.
        ask_letter: whether LLaVA's request for an option's letter is added.
        default: whether it is run when no task is named.
    """

    benchmark: str
    title: str
    split: str
    questions: str
    images: str | None
    needs: tuple[str, ...]
    source: str
    finish: Callable[[Answered], Outcome]
    max_new_tokens: int = 128
    ask_letter: bool = False
    default: bool = True

    @property
    def all_have_images(self) -> bool:
        """Whether each question is about an image; ScienceQA alone asks some without."""
        return self.benchmark != "scienceqa"

    @property
    def ids_repeat(self) -> bool:
        """Whether an id stands for several questions; TextVQA's are those of its images."""
        return self.benchmark == "textvqa"

    @property
    def name(self) -> str:
        """The name in files and flags, e.g. "vqav2-test-dev2015"."""
        return f"{self.benchmark}-{self.split}"

    def missing(self, data: Path) -> list[Path]:
        """Return its files that are not there."""
        wanted = [self.questions, *self.needs, *([self.images] if self.images else [])]
        return [data / name for name in wanted if not (data / name).exists()]


def read_scores(folder: Path) -> dict[str, Any]:
    """Return the entries of a folder's ``scores.json`` by task; none where there is no file.

    Raises:
        UserError: if the file is something else.
    """
    path = folder / "scores.json"
    if not path.exists():
        return {}
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            raise UserError("no object of tasks")
    except UserError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise UserError(
            f"{path}: is no scores.json of this command ({reason}); move it away"
        ) from None
    return content


def add_score(folder: Path, task: str, outcome: Outcome) -> None:
    """Note a task's outcome in ``scores.json``; those of other tasks stay.

    Raises:
        UserError: as `read_scores`.
    """
    content = read_scores(folder)
    content[task] = (
        outcome.to_json()
        if isinstance(outcome, Score)
        else {"submission": str(outcome.path), "server": outcome.server}
    )
    write_atomically(folder / "scores.json", (json.dumps(content, indent=2) + "\n").encode())


def read_server_scores(
    path: Path, checkpoints: Collection[str], tasks: Sequence[Task]
) -> dict[str, dict[str, Score]]:
    """Return the scores that servers returned, by checkpoint and task.

    Raises:
        UserError: if it is not of its form, or names another checkpoint or task.
    """
    form = '{"CHECKPOINT": {"vqav2-test-dev2015": 78.5, ...}, ...}'
    try:
        content = read_json(path)
    except UserError as error:
        raise UserError(f"--server_scores {error}") from None
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise UserError(f"--server_scores {path}: must be {form}")
    known = {task.name: task for task in tasks}
    found: dict[str, dict[str, Score]] = {}
    for checkpoint, values in content.items():
        where = f"--server_scores {path}: {checkpoint}"
        if checkpoint not in checkpoints:
            raise UserError(f"{where}: is none of the checkpoints {', '.join(checkpoints)}")
        for name, value in values.items():
            if name not in known:
                raise UserError(f"{where}: there is no task {name!r}; there are {', '.join(known)}")
            if type(value) not in (int, float) or not 0 <= value <= 100:
                raise UserError(f"{where}: {name}: {value!r} is no score of 0 to 100")
            found.setdefault(checkpoint, {})[name] = Score(
                benchmark=known[name].benchmark,
                value=float(value),
                metric="as the server returned it",
                split=known[name].split,
                questions=0,
                missing=0,
                protocol={"scored by": "the server"},
            )
    return found
