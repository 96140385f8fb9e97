"""The miniature eight asked and scored: questions made ready once, scorers those of the package.

Answers stay in memory; what a scorer writes (submissions, grades) goes into a folder that is thrown
away. Grades of MM-Vet are the local judge's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_sea.conversation import Template
from llava_sea.data.records import Turn
from llava_sea.data.tokenize import stop_ids, tokenize_prompt
from llava_sea.eval.answers import Answer
from llava_sea.eval.benchmarks import Task
from llava_sea.eval.judge import LocalJudge
from llava_sea.eval.questions import Question
from llava_sea.eval.score import Score
from playground.claims.asked import Batch, Prompt, answer_batches, make_batches
from playground.claims.exam import Exam
from playground.study.features import read_features


class Eight:
    """Asks a model all questions of the eight."""

    def __init__(
        self,
        exam: Exam,
        tokenizer: Any,
        template: Template,
        *,
        image_tokens: int,
        batch_size: int,
        max_new_tokens: int,
    ) -> None:
        """Read and tokenise the questions.

        Args:
            exam: the benchmarks' files.
            tokenizer: the LLM's.
            template: how conversations are written.
            image_tokens: P, tokens of a picture.
            batch_size: questions at a time.
            max_new_tokens: longest answer.
        """
        self.exam, self.tokenizer = exam, tokenizer
        self.stop = stop_ids(template, tokenizer)
        self.max_new_tokens = max_new_tokens
        self.asked: dict[Task, list[Question]] = {}
        self.batches: dict[Task, list[Batch]] = {}
        rows, features_IPD = exam.pictures(), read_features(exam.features)
        for task in exam.tasks():
            self.asked[task] = exam.questions(task)
            prompts = []
            for question in self.asked[task]:
                picture = exam.picture_of(task, question)
                ids, mask = tokenize_prompt(
                    [Turn("human", question.first_turn)],
                    template,
                    tokenizer,
                    image_tokens,
                    0 if picture is None else 1,
                )
                prompts.append(Prompt(ids, mask, None if picture is None else rows[picture]))
            self.batches[task] = make_batches(prompts, features_IPD, batch_size)

    def measure(self, llava: Any) -> dict[str, float]:
        """Return a model's scores, 0 to 100, by benchmark."""
        return score_answers(
            self.exam,
            {
                task: answers_to(
                    questions,
                    answer_batches(
                        llava, self.batches[task], self.tokenizer, self.stop, self.max_new_tokens
                    ),
                )
                for task, questions in self.asked.items()
            },
        )


def answers_to(questions: Sequence[Question], texts: Sequence[str]) -> list[Answer]:
    """Pair questions with what was answered."""
    return [
        Answer(question.question_id, question.prompt, text)
        for question, text in zip(questions, texts, strict=True)
    ]


def score_answers(exam: Exam, answers: Mapping[Task, Sequence[Answer]]) -> dict[str, float]:
    """Score answers to the eight.

    Args:
        exam: the benchmarks' files.
        answers: to each task's questions.

    Returns:
        The reported number of each benchmark, 0 to 100.
    """
    scores = {}
    with tempfile.TemporaryDirectory() as folder:
        for task, given in answers.items():
            outcome = task.finish(exam.folder, given, Path(folder), LocalJudge())
            assert isinstance(outcome, Score), f"{task.name} is scored elsewhere"
            scores[task.benchmark] = outcome.value
    return scores
