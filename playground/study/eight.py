"""The miniature eight: asked of a model in memory, scored by the package's scorers.

One exam is one seed's files (`playground.benchmarks`), with the features of its images, made once.
Prompts, decoding and texts are `llava_sea.eval.generation`'s, but tokenised once for all runs of an
LLM; greedy answers, MM-Vet graded by the local judge. What a scorer writes is thrown away.

Shape letters: I images, P patches, D the tower's hidden size.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llava_sea.conversation import Template
from llava_sea.data.images import ImageTransform, decode_image
from llava_sea.data.records import Turn
from llava_sea.data.tokenize import stop_ids, tokenize_prompt
from llava_sea.eval.answers import Answer
from llava_sea.eval.benchmarks import TASKS, Task
from llava_sea.eval.judge import LocalJudge
from llava_sea.eval.questions import Question, distinct, read_questions
from llava_sea.eval.score import Score
from llava_sea.files import sha256_file
from llava_sea.model.generate import Prompts, generate, pad_prompts
from playground.benchmarks.build import build
from playground.study.features import read_features, write_features
from playground.world import Split

Picture = str | bytes
"""An image's path below the benchmarks' folder, or its bytes."""

TEXT_ONLY = "text_only.jsonl"


class Exam(NamedTuple):
    """The benchmarks' folder, LLaVA's ``playground/data/eval``, and the features beside it."""

    folder: Path
    features: Path

    def questions(self) -> dict[Task, list[Question]]:
        """Return the questions of each of the eight, each once."""
        return {
            task: list(
                distinct(
                    read_questions(self.folder / task.questions, single_pred_prompt=task.ask_letter)
                ).values()
            )
            for task in TASKS
            if task.default and not task.missing(self.folder)
        }

    def picture_of(self, task: Task, question: Question) -> Picture | None:
        """Return what the features' rows are found by; None for a question without an image."""
        image = question.image
        return f"{task.images}/{image}" if isinstance(image, str) else image

    def rows(self) -> dict[Picture, int]:
        """Return the row of each image's features."""
        found: dict[Picture, int] = {}
        for task, questions in self.questions().items():
            for question in questions:
                if (picture := self.picture_of(task, question)) is not None:
                    found.setdefault(picture, len(found))
        return found


def prepare_exam(output: Path, clip: Path, split: Split, seed: int) -> Exam:
    """Make sure that a seed's benchmarks and their features are there.

    Raises:
        UserError: if `output` holds something else under the same name.
    """
    folder = output / f"eval-{split}-{seed}"
    build(folder, seed, split)
    files = sorted(path for path in folder.rglob("*.json*") if path.is_file())
    used = [*(sha256_file(path) for path in files), sha256_file(clip / "model.safetensors")]
    key = hashlib.sha256("".join(used).encode()).hexdigest()[:12]
    exam = Exam(folder, output / f"features-{split}-{seed}-{key}.npy")
    if not exam.features.is_file():
        rows = exam.rows()
        transform = ImageTransform.from_pretrained(str(clip), "square")
        write_features(exam.features, clip, _pixels(folder, rows, transform), len(rows))
    return exam


def _pixels(
    folder: Path, pictures: Mapping[Picture, int], transform: ImageTransform
) -> Iterator[Tensor]:
    for picture in pictures:
        data = picture if isinstance(picture, bytes) else (folder / picture).read_bytes()
        yield transform(decode_image(data, str(picture)[:80], "remove the folder: it is made anew"))


class _Batch(NamedTuple):
    """Prompts of like length that are answered together."""

    places: list[int]
    prompts: Prompts
    pixels_IPD: Tensor | None


class Eight:
    """Asks a model all questions of some exams."""

    def __init__(
        self,
        exams: Sequence[Exam],
        tokenizer: Any,
        template: Template,
        image_tokens: int,
        *,
        batch_size: int,
        max_new_tokens: int,
    ) -> None:
        """Read and tokenise the questions.

        Args:
            exams: the benchmarks' files.
            tokenizer: the LLM's.
            template: how conversations are written.
            image_tokens: P, tokens of an image.
            batch_size: questions at a time.
            max_new_tokens: longest answer.
        """
        self.exams, self.tokenizer, self.template = exams, tokenizer, template
        self.image_tokens, self.batch_size = image_tokens, batch_size
        self.max_new_tokens, self.stop = max_new_tokens, stop_ids(template, tokenizer)
        self._asked = [self._prepare(exam) for exam in exams]
        lines = [
            json.loads(line)
            for exam in exams
            for line in (exam.folder / TEXT_ONLY).read_text("utf-8").splitlines()
        ]
        self._text_answers = [_plain(line["answer"]) for line in lines]
        self._text_only = self._batches([(line["text"], None) for line in lines], None)

    def _prepare(self, exam: Exam) -> list[tuple[Task, list[Question], list[_Batch]]]:
        rows, features_IPD = exam.rows(), read_features(exam.features)
        asked = []
        for task, questions in exam.questions().items():
            pictures = [exam.picture_of(task, question) for question in questions]
            texts = [
                (question.first_turn, None if picture is None else rows[picture])
                for question, picture in zip(questions, pictures, strict=True)
            ]
            asked.append((task, questions, self._batches(texts, features_IPD)))
        return asked

    def _batches(
        self, texts: Sequence[tuple[str, int | None]], features_IPD: NDArray[np.float32] | None
    ) -> list[_Batch]:
        """Tokenise (text, row of its image) and put prompts of like length together."""
        prompts = [
            tokenize_prompt(
                [Turn("human", text)],
                self.template,
                self.tokenizer,
                self.image_tokens,
                row is not None,
            )
            for text, row in texts
        ]
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i][0]), i))
        batches = []
        for start in range(0, len(order), self.batch_size):
            places = order[start : start + self.batch_size]
            rows = [row for i in places if (row := texts[i][1]) is not None]
            pixels_IPD = None
            if rows and features_IPD is not None:
                pixels_IPD = torch.from_numpy(np.array(features_IPD[rows]))
            batches.append(_Batch(places, pad_prompts([prompts[i] for i in places]), pixels_IPD))
        return batches

    def measure(self, llava: Any) -> dict[str, float]:
        """Return ``eight``, the mean, ``eight: BENCHMARK`` (0 to 100), and ``language``.

        The last is the share of right answers, 0 to 100, to questions about scenes told in words.
        """
        by_exam = [self._scores(llava, exam) for exam in range(len(self.exams))]
        scores = {
            f"eight: {name}": float(np.mean([scores[name] for scores in by_exam]))
            for name in by_exam[0]
        }
        told = self._answer(llava, self._text_only)
        right = [
            _plain(text) == answer for text, answer in zip(told, self._text_answers, strict=True)
        ]
        eight = float(np.mean(list(scores.values())))
        return {"eight": eight, **scores, "language": 100 * float(np.mean(right))}

    def _scores(self, llava: Any, exam: int) -> dict[str, float]:
        folder, scores = self.exams[exam].folder, {}
        with tempfile.TemporaryDirectory() as written:
            for task, questions, batches in self._asked[exam]:
                answers = [
                    Answer(question.question_id, question.prompt, text)
                    for question, text in zip(questions, self._answer(llava, batches), strict=True)
                ]
                outcome = task.finish(folder, answers, Path(written), LocalJudge())
                assert isinstance(outcome, Score), f"{task.name} is scored elsewhere"
                scores[task.benchmark] = outcome.value
        return scores

    def _answer(self, llava: Any, batches: Sequence[_Batch]) -> list[str]:
        texts: dict[int, str] = {}
        for batch in batches:
            new_BT = generate(
                llava,
                batch.prompts.input_ids,
                batch.prompts.image_mask,
                batch.pixels_IPD,
                attention_mask=batch.prompts.attention_mask,
                max_new_tokens=self.max_new_tokens,
                stop_ids=self.stop,
            )
            for place, row in zip(batch.places, new_BT.tolist(), strict=True):
                ids = [token for token in row if token not in self.stop]
                texts[place] = self.tokenizer.decode(ids, skip_special_tokens=True).strip()
        return [texts[place] for place in range(len(texts))]


def _plain(text: str) -> str:
    return " ".join(text.lower().strip().rstrip(".").split())
