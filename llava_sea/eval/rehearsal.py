"""Checks before the first checkpoint is loaded: hours later is too late.

Each task is rehearsed: its questions are read, and empty answers are scored or written as a
submission into a folder that is thrown away, which reads every file that the real ones will need.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from llava_sea.conversation import TEMPLATES
from llava_sea.errors import UserError
from llava_sea.eval.answering import refuse_caption_only
from llava_sea.eval.answers import Answer
from llava_sea.eval.benchmarks import TASKS, Task
from llava_sea.eval.generation import check_images
from llava_sea.eval.judge import LocalJudge
from llava_sea.eval.questions import distinct, read_questions
from llava_sea.eval.score import read_scores
from llava_sea.eval.scorers.official import refuse_twins
from llava_sea.files import check_folder, refuse_other_things
from llava_sea.model.load_source import find_folder, recognise
from llava_sea.model.load_weights import read_json


def available_tasks(tasks: Sequence[Task], data: Path) -> tuple[list[Task], list[str]]:
    """Return the tasks whose files are there, and a line on each benchmark that has none."""
    complete = [task for task in tasks if not task.missing(data)]
    lines = []
    for benchmark in dict.fromkeys(task.benchmark for task in tasks):
        if any(task.benchmark == benchmark for task in complete):
            continue
        theirs = [task for task in tasks if task.benchmark == benchmark]
        # The user means the one that is nearest to complete.
        task = min(theirs, key=lambda one: len(one.missing(data)))
        files = ", ".join(map(str, task.missing(data)))
        lines.append(f"{task.title} {task.split} is left out: no {files}. From {task.source}")
    return complete, lines


def check_checkpoint(args: argparse.Namespace, checkpoint: str) -> None:
    """Check what can be checked of a checkpoint without loading it."""
    found = find_folder(checkpoint, args.cache_dir, "CHECKPOINT")
    recognise(found)
    config = read_json(found / "config.json") if (found / "config.json").is_file() else {}
    template = TEMPLATES.get(str(args.conv_mode or config.get("conversation_template")))
    if template is not None:
        refuse_caption_only(template, checkpoint)


def rehearse(args: argparse.Namespace, tasks: Sequence[Task], folders: Sequence[Path]) -> None:
    """Check hub ids, the folders of the checkpoints' results, and all tasks."""
    owners: dict[Path, str] = {}
    for checkpoint, folder in zip(args.checkpoints, folders, strict=True):
        if not os.path.isdir(checkpoint):  # folders are checked before
            check_checkpoint(args, checkpoint)
        other = owners.setdefault(folder.resolve(), checkpoint)
        if other != checkpoint:
            raise UserError(
                f"{other} and {checkpoint} would both have their results in {folder}; give them "
                "in runs of their own, each with another --output_dir"
            )
        check_folder(folder, "--output_dir")
        ours = ("scores.json", *(f"{task.name}.run.json" for task in TASKS))
        if not any((folder / name).is_file() for name in ours):
            refuse_other_things(folder, "--output_dir")
        folder.mkdir(parents=True, exist_ok=True)
        read_scores(folder)
    for task in tasks:
        try:
            _rehearse_task(task, args.data, folders)
        except UserError as error:
            others = ",".join(other.name for other in tasks if other is not task)
            if not others:
                raise
            raise UserError(f"{error} (to run the others without it: --only {others})") from None


def _rehearse_task(task: Task, data: Path, folders: Sequence[Path]) -> None:
    path = data / task.questions
    questions = read_questions(path, single_pred_prompt=task.ask_letter)
    blind = [question for question in questions if question.image is None]
    if blind and task.benchmark != "scienceqa":
        raise UserError(
            f'{blind[0].name}: has no "image", and {task.title} asks nothing without an image '
            f"({len(blind)} such questions); fix the file"
        )
    unique = distinct(questions).values()
    if task.benchmark != "textvqa":  # elsewhere answers are joined by id alone
        refuse_twins((str(question.question_id) for question in unique), path)
    if not all((folder / f"{task.name}.jsonl").is_file() for folder in folders):
        check_images(questions, str(data / task.images) if task.images else None)
    answers = [Answer(question.question_id, question.prompt, "") for question in questions]
    with tempfile.TemporaryDirectory() as folder:
        task.finish(data, answers, Path(folder), LocalJudge())
