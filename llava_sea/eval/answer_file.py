"""An answer file that a run writes: what is in it already, and how it comes to be whole.

While a run goes on, answers are appended as they are made: one process writes into the answer file
itself, several into a shard each, ``NAME.shard-1-of-4.jsonl`` beside ``NAME.jsonl``. At its start
and end a run puts all of them into the answer file, in the order of the questions, before it
removes the shards. Whatever ends a run, each answer that was written is in one of these files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_sea.errors import UserError, naming
from llava_sea.eval.answers import read_rows
from llava_sea.eval.question import Question
from llava_sea.files import read_file, write_atomically

Key = tuple[str, str]

WAY_OUT = (
    "Give another --answers-file (of llava_sea.eval: --output_dir), or move this one away to ask "
    "anew"
)


class AnswerFile:
    """The answer file of a run of a model."""

    def __init__(self, path: Path, questions: Sequence[Question], model_id: str) -> None:
        """Name the file.

        Args:
            path: the answer file.
            questions: what it answers when it is whole, in its order; repeats get a row each.
            model_id: the model's name in its rows.
        """
        self.path = path
        self.questions = questions
        self.model_id = model_id
        self._stem = path.name.removesuffix(".jsonl")

    @property
    def run_file(self) -> Path:
        """Where it stands how the answers were made."""
        return self.path.with_name(f"{self._stem}.run.json")

    def shard(self, rank: int, count: int) -> Path:
        """Return the file that a process writes into."""
        if count == 1:
            return self.path
        return self.path.with_name(f"{self._stem}.shard-{rank}-of-{count}.jsonl")

    def shards(self) -> list[Path]:
        """List the shards that are there, of this or another number of processes."""
        pattern = re.compile(re.escape(self._stem) + r"\.shard-\d+-of-\d+\.jsonl")
        if not self.path.parent.is_dir():
            return []
        return sorted(p for p in self.path.parent.iterdir() if pattern.fullmatch(p.name))

    def is_begun(self) -> bool:
        """Say whether any answer is there."""
        files = [self.path, *self.shards()]
        return any(file.is_file() and file.stat().st_size for file in files)

    def read(self) -> dict[Key, str]:
        """Return the answers that are there, by the question's key.

        Raises:
            UserError: if a line is broken that is not the last of its file, or is an answer to
                none of the questions, or another model's, or a second and different one.
        """
        answer_ids = {q.key: q.answer_id(self.model_id) for q in self.questions}
        answers: dict[Key, str] = {}
        for path in [self.path, *self.shards()]:
            for number, row in read_rows(path) if path.is_file() else []:
                key = str(row["question_id"]), str(row.get("prompt"))
                if answer_ids.get(key) != row.get("answer_id"):
                    raise UserError(self._foreign(row, f"{path}:{number}", key in answer_ids))
                if answers.setdefault(key, row["text"]) != row["text"]:
                    raise UserError(
                        f"{path}:{number}: a second answer to question {row['question_id']!r}, "
                        f"{row['text'][:80]!r} after {answers[key][:80]!r}. Remove the wrong line, "
                        "or both, and the question is asked again"
                    )
        return answers

    def put_together(self, answers: Mapping[Key, str]) -> None:
        """Write the answers into the answer file, in order, then remove the shards."""
        rows = [
            json.dumps(question.row(answers[question.key], self.model_id)) + "\n"
            for question in self.questions
            if question.key in answers
        ]
        data = "".join(rows).encode()
        if not self.path.is_file() or read_file(self.path) != data:
            write_atomically(self.path, data)
        for shard in self.shards():
            shard.unlink()

    def append(self, path: Path, answered: Sequence[tuple[Question, str]]) -> None:
        """Add answers to the file of a process."""
        rows = [json.dumps(q.row(text, self.model_id)) + "\n" for q, text in answered]
        with naming(path), open(path, "ab") as file:
            file.write("".join(rows).encode())

    def _foreign(self, row: Mapping[str, Any], place: str, known: bool) -> str:
        what = f"{place}: an answer to question {row['question_id']!r}, "
        if row.get("model_id") != self.model_id:
            what += f"by the model {row.get('model_id')!r} and not {self.model_id!r}"
        elif known:
            what += "which has another picture in the question file"
        else:
            what += f"{str(row.get('prompt'))[:80]!r}, which the question file does not ask"
        return f"{what}. {WAY_OUT}"
