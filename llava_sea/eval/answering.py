"""A run of `llava_sea.eval.answer`: reads the questions, finds the answers, asks the rest.

The first process alone reads the answers of earlier runs and chooses the questions that are left;
each process asks its share and appends to its own file; the first puts the files together. All of
them see the same file system. An error in one's share is told when the others have answered theirs.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llava_sea.conversation import Template
from llava_sea.data.tokenize import check_template
from llava_sea.errors import UserError
from llava_sea.eval.answers import AnswerFile, fingerprint, model_id
from llava_sea.eval.generation import Answerer, Decoding, check_images
from llava_sea.eval.questions import Question, distinct, read_questions
from llava_sea.model.load import load_llava
from llava_sea.model.load_source import find_folder, recorded_base
from llava_sea.model.load_weights import read_json
from llava_sea.processes import Processes
from llava_sea.progress import Progress
from llava_sea.serve.setup import check_template_name, pick_device, pick_template
from llava_sea.terminal import say

Loader = Callable[[argparse.Namespace, torch.device], Answerer]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def answer(args: argparse.Namespace, processes: Processes, load: Loader | None = None) -> None:
    """Answer the questions that the flags name.

    Raises:
        UserError: if a flag, a question, an image, the checkpoint or the answer file is not
            right; earlier answers are kept. Of several processes the first raises it.
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
    """Load the checkpoint as the flags say.

    Raises:
        UserError: as `load_llava`, or if the template does not fit, or asks no question.
    """
    loaded = load_llava(
        args.model_path,
        model_base=args.model_base,
        vision_tower=args.vision_tower,
        dtype=DTYPES.get(args.dtype),
        cache_dir=args.cache_dir,
    )
    template = pick_template(args.conv_mode, loaded, args.model_path)
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
        decoding(args),
        args.batch_size,
    )


def template_name(args: argparse.Namespace) -> str:
    """Return the conversation template's name without loading a model.

    It is the one that the flags name, else the checkpoint's, else its base's; "" where none is.
    """
    if args.conv_mode:
        return str(args.conv_mode)
    for folder in _folders(args):
        path = folder / "config.json"
        name = read_json(path).get("conversation_template") if path.is_file() else None
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


def decoding(args: argparse.Namespace) -> Decoding:
    """Return the flags of decoding."""
    return Decoding(args.max_new_tokens, args.temperature, args.top_p, args.num_beams)


def to_bfloat16(model: nn.Module) -> None:
    """Make float32 weights bfloat16, in place; buffers stay: rotary frequencies must be exact."""
    for parameter in model.parameters():
        if parameter.dtype == torch.float32:
            parameter.data = parameter.data.bfloat16()


def _prepare(args: argparse.Namespace, held: ExitStack) -> tuple[AnswerFile, list[Question]]:
    """Check all that can be checked without the model; return the file and the questions left."""
    check_template_name(args.conv_mode)
    pick_device(args.device)
    file = AnswerFile(Path(args.answers_file), _chunk(args), model_id(args.model_path))
    unique = distinct(file.questions)
    if not file.is_begun():
        check_images(list(unique.values()), args.image_folder)  # before a hub id is downloaded
    run = _run(args, file)
    held.enter_context(file.only_run())
    file.check_same_run(run)
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
    answerer = load(args, pick_device(_own_gpu(args.device, processes)))
    what = "questions" if processes.count == 1 else f"rank 0 of {processes.count}: questions"
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


def _run(args: argparse.Namespace, file: AnswerFile) -> dict[str, Any]:
    """Return the settings that must agree with the run that an answer file is from."""
    flags = ("model_base", "vision_tower", "conv_mode", "temperature", "top_p", "num_beams")
    more = ("max_new_tokens", "dtype", "single_pred_prompt", "lang", "num_chunks", "chunk_idx")
    return {
        "model_id": file.model_id,
        "checkpoint": checkpoint_fingerprint(args),
        **{name: getattr(args, name) for name in (*flags, *more)},
    }


def checkpoint_fingerprint(args: argparse.Namespace) -> str:
    """Return the checkpoint's fingerprint, with its base's where a projector or adapter has one."""
    return "+".join(map(fingerprint, _folders(args)))


def _folders(args: argparse.Namespace) -> list[Path]:
    """Return the checkpoint's folder, and its base's where a projector or adapter has one."""
    folder = find_folder(args.model_path, args.cache_dir)
    base = args.model_base or recorded_base(folder)
    return [folder, find_folder(base, args.cache_dir, "--model-base")] if base else [folder]


def _chunk(args: argparse.Namespace) -> list[Question]:
    """Return the questions of LLaVA's --num-chunks and --chunk-idx: runs of lines, rounded up."""
    questions = read_questions(
        Path(args.question_file), single_pred_prompt=args.single_pred_prompt, lang=args.lang
    )
    size = math.ceil(len(questions) / args.num_chunks)
    return questions[args.chunk_idx * size : (args.chunk_idx + 1) * size]


def _own_gpu(device: str | None, processes: Processes) -> str | None:
    """Return the flag, or this process's GPU where the flag does not say which."""
    several = processes.count > 1 and torch.cuda.is_available()
    return f"cuda:{processes.local_rank}" if several and device in (None, "cuda") else device
