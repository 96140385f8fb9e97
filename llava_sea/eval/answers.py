"""Answer files, as LLaVA's: a JSON object a line, ``{"question_id", "prompt", "text", ...}``.

Answers are joined with questions by id, never by the order of lines. A file that a run left
unfinished may end in the middle of a line: that line is not an answer.

While a run lasts, answers are appended as they are made: one process writes into the answer file
itself, several into a shard each, ``NAME.shard-1-of-4.jsonl``. At its start and end a run puts all
of them into the answer file, in the order of the questions, before it removes the shards. Whatever
ends a run, each answer that was written is in one of these files. ``NAME.run.json`` says how they
were made: only a run that answers in the same way resumes the file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_sea.errors import UserError, naming
from llava_sea.files import (
    LIST_BYTES,
    check_folder,
    only_writer,
    open_file,
    read_file,
    read_json,
    read_jsonl,
    write_atomically,
)

if TYPE_CHECKING:
    from llava_sea.eval.questions import Question

WAY_OUT = (
    "Give another --answers-file (of llava_sea.eval: --output_dir), or move this one away to ask "
    "anew"
)
_FILES = (
    *("*.safetensors", "*.bin", "adapter_config.json", "config.json"),
    *("*processor*config.json", "tokenizer*"),
)
_WHOLE, _STEP, _SAMPLE = 64 << 20, 4 << 20, 4096


@dataclass(frozen=True)
class Answer:
    """A line of an answer file; its prompt is without the image's placeholder."""

    question_id: int | str
    prompt: str
    text: str


def read_answers(path: Path) -> list[Answer]:
    """Read an answer file; errors are those of `read_rows`."""
    return [
        Answer(row["question_id"], str(row.get("prompt") or ""), row["text"])
        for _, row in read_rows(path)
    ]


def read_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Return the rows of an answer file with their line numbers; a cut last line is none."""

    def check(row: Any) -> None:
        if not isinstance(row["text"], str) or not isinstance(row["question_id"], (int, str)):
            raise TypeError("question_id or text of another type")

    way_out = "remove the line, and the question is asked again"
    return read_jsonl(path, "an answer", check, way_out, cut=True)


def by_id(answers: Iterable[Answer]) -> dict[str, str]:
    """Return the texts by question id (as text: files write 7 and "7" for the same question)."""
    texts: dict[str, str] = {}
    for answer in answers:
        key = str(answer.question_id)
        if texts.setdefault(key, answer.text) != answer.text:
            raise UserError(
                f"question_id {key} has two answers, {texts[key]!r} and {answer.text!r}; keep one"
            )
    return texts


class AnswerFile:
    """The answer file that a run writes."""

    def __init__(self, path: Path, questions: Sequence[Question], model_id: str) -> None:
        """Take the questions in the file's order; repeats get a row each."""
        self.path, self.questions, self.model_id = path, questions, model_id
        self._stem = path.name.removesuffix(".jsonl")
        self.run_file = path.with_name(f"{self._stem}.run.json")

    def shard(self, rank: int, count: int) -> Path:
        """Return the file that a process writes into."""
        name = f"{self._stem}.shard-{rank}-of-{count}.jsonl"
        return self.path if count == 1 else self.path.with_name(name)

    def _files(self) -> list[Path]:
        """List the answer file and the shards, of this or another number of processes, on disk."""
        pattern = re.compile(re.escape(self._stem) + r"\.shard-\d+-of-\d+\.jsonl")
        beside = self.path.parent.iterdir() if self.path.parent.is_dir() else ()
        shards = sorted(path for path in beside if pattern.fullmatch(path.name))
        return [path for path in (self.path, *shards) if path.is_file()]

    def is_begun(self) -> bool:
        """Say whether any answer is there."""
        return any(path.stat().st_size for path in self._files())

    def read(self) -> dict[tuple[str, str], str]:
        """Return the answers on disk, by the question's key.

        Raises:
            UserError: if a line is broken that is not the last of its file, or is an answer to
                none of the questions, or another model's, or a second and different one.
        """
        answer_ids = {q.key: q.answer_id(self.model_id) for q in self.questions}
        answers: dict[tuple[str, str], str] = {}
        for path in self._files():
            for number, row in read_rows(path):
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

    def put_together(self, answers: Mapping[tuple[str, str], str]) -> None:
        """Write the answers into the answer file, in order, then remove the shards."""
        rows = [
            json.dumps(question.row(answers[question.key], self.model_id)) + "\n"
            for question in self.questions
            if question.key in answers
        ]
        data = "".join(rows).encode()
        if not self.path.is_file() or read_file(self.path, LIST_BYTES) != data:
            write_atomically(self.path, data)
        for path in self._files():
            if path != self.path:
                path.unlink()

    def append(self, path: Path, answered: Sequence[tuple[Question, str]]) -> None:
        """Add answers to the file of a process."""
        rows = [json.dumps(q.row(text, self.model_id)) + "\n" for q, text in answered]
        with naming(path), open(path, "ab") as file:
            file.write("".join(rows).encode())

    @contextmanager
    def only_run(self, run: Mapping[str, Any]) -> Iterator[None]:
        """Keep a second run off the answer file, by a lock on ``NAME.run.json``.

        Args:
            run: how answers are made, by the flags' names: it must agree with the file's.

        Raises:
            UserError: if a run is writing into it, its answers were made otherwise, or nothing
                says how they were made.
        """
        if self.path.is_dir():
            raise UserError(f"{self.path}: is a folder, and the answer file goes there; move it")
        if self.is_begun() and not self.run_file.is_file():
            raise UserError(
                f"{self.path}: holds answers, and no {self.run_file.name} beside it says how they "
                f"were made, so they cannot be resumed. {WAY_OUT}"
            )
        check_folder(self.path.parent, "--answers-file")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        busy = (
            f"{self.path}: another process is writing into it; wait for its end, or give another "
            "--answers-file (of llava_sea.eval: --output_dir)"
        )
        with only_writer(self.run_file, busy):
            self._check_same_run(run)
            yield

    def _check_same_run(self, run: Mapping[str, Any]) -> None:
        if not self.is_begun():
            # In place: another file under this name would not be the one that is locked. A kill in
            # the middle leaves a broken one and no answers, and the next run writes it anew.
            with naming(self.run_file):
                self.run_file.write_bytes(json.dumps(run, indent=2).encode() + b"\n")
            return
        try:
            before = read_json(self.run_file)
            differing = [name for name in run if before[name] != run[name]]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.run_file}: does not say how {self.path.name} was made ({error!r}). "
                f"{WAY_OUT}"
            ) from None
        if differing:
            both = [f"{_flag(name)} {before[name]} and now {run[name]}" for name in differing]
            raise UserError(
                f"{self.path}: holds answers that were made otherwise: {'; '.join(both)}. {WAY_OUT}"
            )

    def _foreign(self, row: Mapping[str, Any], place: str, known: bool) -> str:
        what = f"{place}: an answer to question {row['question_id']!r}, "
        if row.get("model_id") != self.model_id:
            what += f"by the model {row.get('model_id')!r} and not {self.model_id!r}"
        elif known:
            what += "which has another image in the question file"
        else:
            what += f"{str(row.get('prompt'))[:80]!r}, which the question file does not ask"
        return f"{what}. {WAY_OUT}"


def _flag(name: str) -> str:
    named = {"checkpoint": "the checkpoint's contents", "model_id": "the checkpoint's name"}
    return named.get(name, f"--{name.replace('_', '-')}")


def fingerprint(folder: Path) -> str:
    """Return a hash of a checkpoint's weights and settings.

    Files up to 64 MiB enter whole, larger ones with their size, their end and 4 KiB of every 4 MiB:
    seconds for 7B. A checkpoint that was trained further under the same name is told apart, a
    change of a few bytes of its weights need not be.
    """
    digest = hashlib.sha256()
    found = {path for pattern in _FILES for path in folder.glob(pattern) if path.is_file()}
    for path in sorted(found):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with open_file(path) as file:
            if size <= _WHOLE:
                digest.update(file.read())
                continue
            for start in [*range(0, size, _STEP), size - _SAMPLE]:
                file.seek(start)
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()[:32]


def model_id(path: str) -> str:
    """Return LLaVA's name of a checkpoint: its folder's, with the one above for checkpoint-N."""
    parts = Path(path).parts if Path(path).name else Path(path).resolve().parts
    is_step = len(parts) > 1 and parts[-1].startswith("checkpoint-")
    return "_".join(parts[-2:]) if is_step else parts[-1]
