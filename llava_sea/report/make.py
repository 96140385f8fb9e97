"""From flags to the report's contents: load the model, read the pictures, gather the numbers."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration
from transformers.utils import logging as hf_logging

from llava_sea.data.images import ImageTransform, patch_grid
from llava_sea.data.records import load_records
from llava_sea.errors import UserError
from llava_sea.labels.words_file import read_words
from llava_sea.model.builder import build_llava, load_tokenizer
from llava_sea.model.stage1 import Stage1Model
from llava_sea.report.folder import RunFolder
from llava_sea.report.measures import (
    PRECISION_KEYS,
    Line,
    charts_of,
    has_alignment,
    lines_of,
    lines_of_pictures,
)
from llava_sea.report.page import Report
from llava_sea.report.reading import Picture, PictureReader, Words, choose_records
from llava_sea.train.evaluation import Truth


def make_report(run: RunFolder, args: argparse.Namespace, command: str) -> Report:
    """Make the report's contents.

    Args:
        run: the run's folder.
        args: the flags of the command.
        command: the command line, for the reader who wants to repeat it.

    Raises:
        UserError: if a file is missing or broken, or the parts do not fit each other.
    """
    records = choose_records(load_records(args.data_path), args.num_images)
    entries = read_words(args.words)
    truth = _open_truth(args.truth)
    llm = args.model_name_or_path or _setting(run, "_name_or_path", "--model_name_or_path")
    tower = args.vision_tower or _setting(run, "mm_vision_tower", "--vision_tower")
    transform = ImageTransform.from_pretrained(
        tower, run.config.get("image_aspect_ratio", "square")
    )
    device = _device(args.device)
    dtype = _dtype(args.dtype, device)
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    tokenizer = load_tokenizer(llm, model_max_length=1_000_000)
    words = Words([entry.word for entry in entries[: args.num_words]], tokenizer)
    llava = build_llava(
        llm,
        tower,
        dtype=dtype,
        select_layer=int(run.config.get("mm_vision_select_layer", -2)),
    )
    _move_what_works(llava, device)
    reader = PictureReader(
        Stage1Model(llava),
        tokenizer,
        words,
        transform,
        args.image_folder,
        patch_grid(llava.config.vision_config),
        truth,
        device,
    )
    pictures = reader.read(records, run.projectors)
    with_sea = (
        has_alignment(run.rows)
        or (run.projectors[-1].path.parent / "alignment_head.safetensors").is_file()
    )
    lines, caption = _table(run, pictures, truth is not None)
    kind = "stage 1 with SEA" if with_sea else "stage 1, plain LLaVA" if run.rows else "stage 1"
    return Report(
        run_name=run.name,
        kind=kind if run.step is None else f"{kind} · {run.step:,} steps",
        llm=llm,
        tower=tower,
        step=run.step,
        lines=lines,
        table_caption=caption,
        charts=charts_of(run.rows),
        pictures=pictures,
        num_words=len(words.words),
        truth_known=truth is not None,
        with_sea=with_sea,
        facts=_facts(run, args, words, len(entries), command),
        notes=run.notes,
    )


def _table(run: RunFolder, pictures: list[Picture], truth_known: bool) -> tuple[list[Line], str]:
    """Return the table and its caption; what the log does not hold the pictures below tell."""
    lines = lines_of(run.rows, run.step) if run.step is not None else []
    if any(line.key in PRECISION_KEYS for line in lines):
        return lines, (
            "From the run's log. Values in training are of its first and its last logged step."
        )
    lines += lines_of_pictures([picture.grids for picture in pictures], truth_known)
    why = (
        "The run's log does not say which step this projector is of"
        if run.step is None and run.rows
        else "The run's log holds no held-out measurements"
    )
    return lines, f"{why}: TACS, gap and nearest words are those of the pictures below."


def _facts(
    run: RunFolder, args: argparse.Namespace, words: Words, num_entries: int, command: str
) -> list[tuple[str, str]]:
    listed = f"{args.words}: {len(words.words):,} of {num_entries:,} entries, the most frequent"
    if words.num_dropped:
        listed += f"; {words.num_dropped:,} that the tokenizer cannot write are left out"
    facts = [("Run", str(run.root))]
    facts += [
        (f"Projector, {projector.label}", str(projector.path)) for projector in run.projectors
    ]
    facts += [
        ("Held-out records", str(args.data_path)),
        ("Words", listed),
        ("Truth", str(args.truth) if args.truth else "none given; words of the caption are marked"),
        ("Command", command),
    ]
    return facts


def _setting(run: RunFolder, key: str, flag: str) -> str:
    value = run.config.get(key)
    if not isinstance(value, str) or not value:
        raise UserError(
            f"--run {run.root}: its config.json has no {key!r}; is it LLaVA's? Or pass {flag}"
        )
    return value


def _open_truth(path: str | None) -> Truth | None:
    if path is None:
        return None
    try:
        return Truth(path)
    except UserError as error:
        raise UserError(str(error).replace("--sea_eval_truth", "--truth")) from None


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; use --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" else "float32"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _move_what_works(llava: LlavaForConditionalGeneration, device: torch.device) -> None:
    """Move tower, projector and embeddings; the LLM's layers are not needed and stay behind."""
    parts: list[Any] = [
        llava.model.vision_tower,
        llava.model.multi_modal_projector,
        llava.get_input_embeddings(),
    ]
    for part in parts:
        part.to(device)
