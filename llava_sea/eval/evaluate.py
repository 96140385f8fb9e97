"""Checkpoints through the benchmarks: answer, score, and the table of all.

Each checkpoint is loaded once, and only if a question is left to ask. Its answers, submissions and
``scores.json`` lie in its own folder, so a run that stopped resumes and a later one asks nothing
twice. Checks that need no model come first, since hours later is too late: each task is rehearsed
with empty answers, which reads every file that the real ones will need. If a task fails all the
same, the others still run.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from llava_sea.conversation import TEMPLATES
from llava_sea.errors import UserError
from llava_sea.eval import answer
from llava_sea.eval.answering import answer as answer_questions
from llava_sea.eval.answering import load_answerer, refuse_caption_only, template_name
from llava_sea.eval.answers import Answer, read_answers
from llava_sea.eval.benchmarks import TASKS, Task, select
from llava_sea.eval.generation import Answerer, check_images
from llava_sea.eval.judge import Judge, LocalJudge, OpenAIJudge
from llava_sea.eval.questions import distinct, read_questions
from llava_sea.eval.score import Outcome, Score, add_score, read_scores, with_prompt
from llava_sea.eval.scorers.official import refuse_twins
from llava_sea.eval.table import print_table
from llava_sea.files import check_folder, read_json, read_object, refuse_other_things
from llava_sea.model.load_source import find_folder, recognise
from llava_sea.processes import FailedElsewhereError, Processes
from llava_sea.terminal import say


def evaluate(args: argparse.Namespace, processes: Processes) -> None:
    """Answer, score and print the table, as the flags of the command say."""
    names = short_names(args.checkpoints)
    baseline = _baseline(args.baseline, args.checkpoints, names)
    judge = pick_judge(args)
    returned = read_server_scores(args.server_scores, names) if args.server_scores else {}
    folders = [results_folder(args, checkpoint) for checkpoint in args.checkpoints]
    for checkpoint in filter(os.path.isdir, args.checkpoints):
        processes.first(partial(check_checkpoint, args, checkpoint))
    tasks, lacking = available_tasks(select(args.only), args.data)
    if processes.rank == 0:
        for line in lacking:
            say(line)
    if not tasks:
        raise UserError(
            f"--data {args.data}: none of the benchmarks is there; the lines above name the "
            "missing files and their sources"
        )
    processes.first(lambda: rehearse(args, tasks, folders))
    columns: dict[str, dict[str, Outcome]] = {}
    failures: dict[tuple[str, str], list[str]] = {}  # tasks by checkpoint and error
    for name, checkpoint, folder in zip(names, args.checkpoints, folders, strict=True):
        columns[name] = {}
        for task, outcome in _checkpoint(args, checkpoint, folder, tasks, judge, processes):
            if isinstance(outcome, UserError):
                failed = failures.setdefault((name, str(outcome)), [])
                failed.append(f"{task.title} {task.split}")
            else:
                columns[name][task.name] = outcome
    if processes.rank == 0:
        say()
        replaced = _fill_in(columns, returned)
        print_table(TASKS, columns, baseline)
        for line in [*replaced, *(line.partition(": no ")[0] for line in lacking)]:
            say(line)
        for name, folder in zip(names, folders, strict=True):
            say(f"{name}: answers and scores are in {folder}")
    if failures:
        lines = [f"{', '.join(them)}, {name}: {why}" for (name, why), them in failures.items()]
        raise UserError(
            f"not scored: {'; '.join(lines)}. All answers are kept, and the same command resumes"
        )


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
    config = read_object(found / "config.json") if (found / "config.json").is_file() else {}
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


def _fill_in(
    columns: dict[str, dict[str, Outcome]], returned: Mapping[str, Mapping[str, Score]]
) -> list[str]:
    """Put in the scores of servers; return a line on each score of ours that is replaced."""
    lines = []
    for name, theirs in returned.items():
        for task, score in theirs.items():
            ours = columns[name].get(task)
            if isinstance(ours, Score):
                lines.append(
                    f"{name}: {task}: the table has the server's {score.value:.1f}; the score made "
                    f"here, {ours.value:.1f}, stays in scores.json"
                )
            columns[name][task] = score
    return lines


def _checkpoint(
    args: argparse.Namespace,
    checkpoint: str,
    folder: Path,
    tasks: Sequence[Task],
    judge: Judge | None,
    processes: Processes,
) -> Iterator[tuple[Task, Outcome | UserError]]:
    """Yield each task with its outcome, or with the error that kept it; in the first process.

    All processes agree whether a task failed, and start the next together.
    """
    loaded: list[Answerer | UserError] = []  # a checkpoint that cannot be loaded is tried once

    def load(flags: argparse.Namespace, device: torch.device) -> Answerer:
        if not loaded:
            try:
                loaded.append(load_answerer(flags, device))
            except UserError as error:
                loaded.append(error)
        (model,) = loaded
        if isinstance(model, UserError):
            raise model
        decoding = replace(model.decoding, max_new_tokens=flags.max_new_tokens)
        return replace(model, image_folder=Path(flags.image_folder or "."), decoding=decoding)

    for task in tasks:
        path = folder / f"{task.name}.jsonl"
        try:
            flags = _flags(args, checkpoint, task, path)
            answer_questions(flags, processes, load)
            if processes.rank:
                continue
            answers = read_answers(path)
            outcome = task.finish(args.data, answers, folder, judge)
            if isinstance(outcome, Score):
                outcome = with_prompt(outcome, answers, template_name(flags))
        except FailedElsewhereError:
            continue
        except UserError as error:
            yield task, error
            continue
        add_score(folder, task.name, outcome)
        yield task, outcome


def _flags(args: argparse.Namespace, checkpoint: str, task: Task, path: Path) -> argparse.Namespace:
    """Return a task's flags of `llava_sea.eval.answer`."""
    files = [f"--question_file={args.data / task.questions}", f"--answers_file={path}"]
    flags = answer.parse([f"--model_path={checkpoint}", *files])
    flags.image_folder = str(args.data / task.images) if task.images else None
    flags.single_pred_prompt = task.ask_letter
    flags.max_new_tokens = task.max_new_tokens
    for name in answer.SHARED_FLAGS:
        setattr(flags, name, getattr(args, name))
    return flags


def short_names(checkpoints: Sequence[str]) -> list[str]:
    """Return the checkpoints' names in the table: the shortest ends of their paths that differ."""
    parts = [Path(checkpoint).parts for checkpoint in checkpoints]
    if len(set(parts)) < len(parts):
        raise UserError("a checkpoint is given twice; give each once")
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return list(checkpoints)


def results_folder(args: argparse.Namespace, checkpoint: str) -> Path:
    """Return where a checkpoint's answers and scores go."""
    if args.output_dir:
        parts = Path(checkpoint).parts
        if not parts or ".." in parts:
            parts = Path(os.path.abspath(checkpoint)).parts
        return Path(args.output_dir) / "_".join(parts[-2:]).strip("/_")
    if not Path(checkpoint).is_dir():
        raise UserError(
            f"{checkpoint}: no such folder; fix the path, or, if it is a hub id, name a folder "
            "for its results: --output_dir FOLDER"
        )
    return Path(checkpoint) / "eval"


def pick_judge(args: argparse.Namespace) -> Judge | None:
    """Return MM-Vet's judge, None where nobody was named."""
    if args.judge and (args.judge_url or args.judge_model):
        raise UserError("--judge local and --judge_url are two judges; give one")
    if args.judge:
        return LocalJudge()
    if not args.judge_url and not args.judge_model:
        return None
    if not (args.judge_url and args.judge_model):
        raise UserError("a judge needs both --judge_url and --judge_model")
    return OpenAIJudge(args.judge_url, args.judge_model, os.environ.get("OPENAI_API_KEY", ""))


def read_server_scores(path: Path, checkpoints: Collection[str]) -> dict[str, dict[str, Score]]:
    """Return the scores that servers returned, by checkpoint and task.

    The user keeps them in a file with the table's names,
    ``{"CHECKPOINT": {"vqav2-test-dev2015": 78.5}}``.
    """
    form = '{"CHECKPOINT": {"vqav2-test-dev2015": 78.5, ...}, ...}'
    try:
        content = read_json(path)
    except UserError as error:
        raise UserError(f"--server_scores {error}") from None
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise UserError(f"--server_scores {path}: must be {form}")
    known = {task.name: task for task in TASKS}
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
            benchmark, split = known[name].benchmark, known[name].split
            metric, protocol = "as the server returned it", {"scored by": "the server"}
            score = Score(benchmark, float(value), metric, split, 0, 0, protocol)
            found.setdefault(checkpoint, {})[name] = score
    return found


def _baseline(given: str | None, checkpoints: Sequence[str], names: Sequence[str]) -> str | None:
    if given is None:
        return None
    for name, checkpoint in zip(names, checkpoints, strict=True):
        if given == name or Path(given) == Path(checkpoint):
            return name
    raise UserError(f"--baseline {given}: is none of the checkpoints {', '.join(checkpoints)}")
