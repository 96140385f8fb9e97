"""A run of `llava_sea.eval.answer`: reads the questions, finds the answers, asks the rest.

The first process reads the answers of earlier runs and chooses the questions that are left; each
asks its share and appends to its own file; the first puts the files together. All of them see the
same file system. An error in one's share is told when the others have answered theirs.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn

from llava_sea.conversation import Template
from llava_sea.data.tokenize import check_template
from llava_sea.errors import UserError
from llava_sea.eval.answers import AnswerFile, fingerprint, model_id
from llava_sea.eval.generation import Answerer, Decoding, check_images
from llava_sea.eval.questions import Question, distinct, read_questions
from llava_sea.files import read_object
from llava_sea.model.load import load_llava
from llava_sea.model.load_source import find_folder, recorded_base
from llava_sea.pretrained import pick_device
from llava_sea.processes import Processes
from llava_sea.progress import Progress
from llava_sea.templates import check_version, pick_template
from llava_sea.terminal import say

Loader = Callable[[argparse.Namespace, torch.device], Answerer]

SAME_RUN = (
    *("model_base", "vision_tower", "conv_mode", "temperature", "top_p", "num_beams"),
    *("max_new_tokens", "dtype", "single_pred_prompt", "lang", "num_chunks", "chunk_idx"),
)
"""Flags that must agree with those of the run that an answer file is from."""


def answer(args: argparse.Namespace, processes: Processes, load: Loader | None = None) -> None:
    """Answer the questions that the flags name.

    Raises:
        UserError: if a flag or a file is not right; earlier answers are kept. Of several processes
            the first raises it.
        FailedElsewhereError: in the others.
    """
    with ExitStack() as held:
        file, left = processes.first(lambda: _prepare(args, held))
        error = None
        try:
            _answer_share(args, processes, file, left, load or load_answerer)
        except UserError as raised:
            error = raised
        processes.raise_if_any_failed(error)
        processes.first(lambda: _finish(file, len(left)))


def load_answerer(args: argparse.Namespace, device: torch.device) -> Answerer:
    """Load the checkpoint as the flags say."""
    loaded = load_llava(
        args.model_path,
        model_base=args.model_base,
        vision_tower=args.vision_tower,
        dtype=None if args.dtype == "auto" else getattr(torch, args.dtype),
        cache_dir=args.cache_dir,
    )
    template = pick_template(args.conv_mode, loaded.version, loaded.tokenizer, args.model_path)
    check_template(template, loaded.tokenizer)
    refuse_caption_only(template, args.model_path)
    if args.dtype == "auto" and device.type == "cuda":
        to_bfloat16(loaded.model)
    return Answerer(
        loaded.model.to(device).eval(),  # type: ignore[arg-type]
        loaded.tokenizer,
        loaded.transform,
        template,
        Path(args.image_folder or "."),
        Decoding(args.max_new_tokens, args.temperature, args.top_p, args.num_beams),
        args.batch_size,
    )


def template_name(args: argparse.Namespace) -> str:
    """Return the flags' conversation template, else the checkpoint's, else its base's, else ""."""
    if args.conv_mode:
        return str(args.conv_mode)
    for folder in _folders(args):
        path = folder / "config.json"
        name = read_object(path).get("conversation_template") if path.is_file() else None
        if name:
            return str(name)
    return ""


def refuse_caption_only(template: Template, checkpoint: str) -> None:
    """Raise a `UserError` over the template that leaves questions out."""
    if template.caption_only:
        raise UserError(
            f"{checkpoint}: with the template {template.name!r}, stage 1's, a model sees the "
            "image alone and no question. Take a checkpoint of stage 2, or give --conv-mode the "
            "template that the LLM knows"
        )


def to_bfloat16(model: nn.Module) -> None:
    """Make float32 weights bfloat16, in place; buffers stay: rotary frequencies must be exact."""
    for parameter in model.parameters():
        if parameter.dtype == torch.float32:
            parameter.data = parameter.data.bfloat16()


def _prepare(args: argparse.Namespace, held: ExitStack) -> tuple[AnswerFile, list[Question]]:
    """Check all that can be checked without the model; return the file and the questions left."""
    if args.conv_mode is not None:
        check_version(args.conv_mode, "--conv-mode")
    pick_device(args.device)
    questions = read_questions(
        Path(args.question_file), single_pred_prompt=args.single_pred_prompt, lang=args.lang
    )
    size = math.ceil(len(questions) / args.num_chunks)  # LLaVA's chunks: runs of lines, rounded up
    chunk = questions[args.chunk_idx * size : (args.chunk_idx + 1) * size]
    file = AnswerFile(Path(args.answers_file), chunk, model_id(args.model_path))
    unique = distinct(file.questions)
    if not file.is_begun():
        check_images(list(unique.values()), args.image_folder)  # before a hub id is downloaded
    run = {"model_id": file.model_id, "checkpoint": checkpoint_fingerprint(args)}
    run |= {name: getattr(args, name) for name in SAME_RUN}
    held.enter_context(file.only_run(run))
    answers = file.read()
    left = [question for key, question in unique.items() if key not in answers]
    check_images(left, args.image_folder)
    file.put_together(answers)
    return file, left


def _answer_share(
    args: argparse.Namespace,
    processes: Processes,
    file: AnswerFile,
    left: list[Question],
    load: Loader,
) -> None:
    """Answer this process's share of the questions that are left, if it has one."""
    share = processes.share(left)
    if not share:
        return
    path = file.shard(processes.rank, processes.count)
    device, what = args.device, "questions"
    if processes.count > 1:
        what = f"rank 0 of {processes.count}: questions"
        if torch.cuda.is_available() and device in (None, "cuda"):
            device = f"cuda:{processes.local_rank}"
    answerer = load(args, pick_device(device))
    with Progress(what, len(share), shown=processes.rank == 0) as progress:
        for answered in answerer.answers(share):
            file.append(path, answered)
            progress.update(len(answered))


def _finish(file: AnswerFile, asked: int) -> None:
    answers = file.read()
    lacking = {question.key for question in file.questions} - answers.keys()
    if lacking:
        raise UserError(
            f"{file.path}: {len(lacking)} answers are not there that were just given, so the "
            "files of another process do not arrive here: is the folder on a file system that all "
            "of them share? The same command resumes"
        )
    file.put_together(answers)
    say(f"{file.path}: {len(file.questions)} answers, {asked} of them asked for now")


def checkpoint_fingerprint(args: argparse.Namespace) -> str:
    """Return the checkpoint's fingerprint, with its base's where a projector or adapter has one."""
    return "+".join(map(fingerprint, _folders(args)))


def _folders(args: argparse.Namespace) -> list[Path]:
    """Return the checkpoint's folder, and its base's where a projector or adapter has one."""
    folder = find_folder(args.model_path, args.cache_dir)
    base = args.model_base or recorded_base(folder)
    return [folder, find_folder(base, args.cache_dir, "--model-base")] if base else [folder]
