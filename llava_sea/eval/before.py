"""What is checked before the first checkpoint is loaded: hours later is too late.

Each task is rehearsed: its questions are read, and answers of no words are scored or written as a
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
from llava_sea.eval.generation import check_pictures
from llava_sea.eval.judge import LocalJudge
from llava_sea.eval.outcome import Answered, Task
from llava_sea.eval.questions import distinct, read_questions
from llava_sea.eval.score_file import read_scores
from llava_sea.eval.vqa_accuracy import refuse_twins
from llava_sea.model.load_source import find_folder, recognise
from llava_sea.model.load_weights import read_json


def check_places(args: argparse.Namespace, folders: Sequence[Path]) -> None:
    """See that hub ids are checkpoints, and that each has a folder of its own for its results.

    Args:
        args: of `llava_sea.eval.flags`.
        folders: where the results go, a folder for each checkpoint.

    Raises:
        UserError: naming the checkpoint or the folder.
    """
    owners: dict[Path, str] = {}
    for checkpoint, folder in zip(args.checkpoints, folders, strict=True):
        if not os.path.isdir(checkpoint):  # a hub id; folders: `check_local_checkpoints`
            _check_checkpoint(args, checkpoint)
        other = owners.setdefault(folder.resolve(), checkpoint)
        if other != checkpoint:
            raise UserError(
                f"{other} and {checkpoint} would both have their results in {folder}; give them "
                "in runs of their own, each with another --output_dir"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
            raise UserError(
                f"{folder}: no folder for results can be made there ({error.strerror}); give "
                "another --output_dir"
            ) from None
        read_scores(folder)


def check_local_checkpoints(args: argparse.Namespace) -> None:
    """See that checkpoints can be asked, as far as nothing has to be downloaded for it.

    Args:
        args: of `llava_sea.eval.flags`.

    Raises:
        UserError: naming the checkpoint.
    """
    for checkpoint in filter(os.path.isdir, args.checkpoints):
        _check_checkpoint(args, checkpoint)


def _check_checkpoint(args: argparse.Namespace, checkpoint: str) -> None:
    found = find_folder(checkpoint, args.cache_dir, "CHECKPOINT")
    recognise(found)
    config = read_json(found / "config.json") if (found / "config.json").is_file() else {}
    template = TEMPLATES.get(str(args.conv_mode or config.get("conversation_template")))
    if template is not None:
        refuse_caption_only(template, checkpoint)


def rehearse_all(tasks: Sequence[Task], data: Path, folders: Sequence[Path]) -> None:
    """Rehearse tasks.

    Args:
        tasks: whose files are there.
        data: the benchmarks' folder.
        folders: of the results.

    Raises:
        UserError: as `rehearse`, with the flag that runs the others.
    """
    for task in tasks:
        try:
            rehearse(task, data, folders)
        except UserError as error:
            others = ",".join(other.name for other in tasks if other is not task)
            if not others:
                raise
            raise UserError(f"{error} (to run the others without it: --only {others})") from None


def rehearse(task: Task, data: Path, folders: Sequence[Path]) -> None:
    """Read all that a task needs, as far as that goes without a model.

    Args:
        task: whose files are there.
        data: the benchmarks' folder.
        folders: of the results. Pictures are looked for if one of them has no answers yet.

    Raises:
        UserError: naming the file and the place in it.
    """
    path = data / task.questions
    questions = read_questions(path, single_pred_prompt=task.ask_letter)
    blind = [question for question in questions if question.image is None]
    if blind and task.all_have_pictures:
        raise UserError(
            f'{blind[0].name}: has no "image", and {task.title} asks nothing without a picture '
            f"({len(blind)} such questions); mend the file"
        )
    unique = distinct(questions).values()
    if not task.ids_repeat:  # answers are joined by id, so two texts of one would be in the way
        refuse_twins((str(question.question_id) for question in unique), path)
    if not all((folder / f"{task.name}.jsonl").is_file() for folder in folders):
        check_pictures(questions, str(data / task.images) if task.images else None)
    answers = [Answer(question.question_id, question.prompt, "") for question in questions]
    with tempfile.TemporaryDirectory() as folder:
        task.finish(Answered(data, path, answers, Path(folder), LocalJudge()))
