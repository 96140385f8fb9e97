"""What a task of a benchmark comes to: a score, or a file for the server that scores it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_sea.eval.answers import Answer
from llava_sea.eval.judge import Judge
from llava_sea.eval.score import Score


@dataclass(frozen=True)
class Submission:
    """A file that a server scores.

    Attributes:
        path: the file.
        server: where it is uploaded.
    """

    path: Path
    server: str


Outcome = Score | Submission


@dataclass(frozen=True)
class Answered:
    """A task that was answered, as `Task.finish` takes it.

    Attributes:
        data: the benchmarks' folder, LLaVA's ``playground/data/eval``.
        questions: the question file.
        answers: what was answered.
        folder: gets the files that scoring or a submission makes.
        judge: who grades open answers; None where nobody was named.
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
        images: the folder of its pictures; None where the question file holds them.
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
    def all_have_pictures(self) -> bool:
        """Whether each question is about a picture; ScienceQA alone asks some without."""
        return self.benchmark != "scienceqa"

    @property
    def ids_repeat(self) -> bool:
        """Whether an id stands for several questions; TextVQA's are those of its pictures."""
        return self.benchmark == "textvqa"

    @property
    def name(self) -> str:
        """What names it in files and flags, e.g. "vqav2-test-dev2015"."""
        return f"{self.benchmark}-{self.split}"

    def missing(self, data: Path) -> list[Path]:
        """Return its files that are not there."""
        wanted = [self.questions, *self.needs, *([self.images] if self.images else [])]
        return [data / name for name in wanted if not (data / name).exists()]
