"""From flags to the report's contents: load the model, read the pictures, gather the numbers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration
from transformers.utils import logging as hf_logging

from llava_sea.data.images import ImageTransform, patch_grid
from llava_sea.data.records import load_records
from llava_sea.errors import UserError
from llava_sea.labels.occurrence import Truth
from llava_sea.labels.words_file import WordEntry, read_words
from llava_sea.model.builder import build_llava, load_tokenizer
from llava_sea.model.load import embedding_rows
from llava_sea.model.stage1 import Stage1Model
from llava_sea.report.cells import Grid
from llava_sea.report.facts import facts_of, kind_text, notes_of
from llava_sea.report.folder import Projector, RunFolder
from llava_sea.report.measures import (
    PRECISION_KEYS,
    Line,
    charts_of,
    charts_of_pair,
    lines_of,
    lines_of_pictures,
)
from llava_sea.report.page import Baseline, Report
from llava_sea.report.pair import SEA, check_fit, kind_of, names_of
from llava_sea.report.reading import PictureReader, choose_records
from llava_sea.report.token_map import make_map
from llava_sea.report.words import Words

FROM_LOG = "From the run's log. Values in training are of its first and its last logged step."
PAIR_CAPTION = "From both runs' logs: the last value of each, before training the first."


def make_report(
    run: RunFolder, baseline: RunFolder | None, args: argparse.Namespace, command: str
) -> Report:
    """Make the report's contents.

    Args:
        run: the run's folder.
        baseline: another run's to show beside it, if there is one.
        args: the flags of the command.
        command: the command line, for the reader who wants to repeat it.

    Raises:
        UserError: if a file is missing or broken, or the parts do not fit each other.
    """
    if baseline is not None:
        check_fit(run, baseline, vars(args))
    with_pictures = choose_records(load_records(args.data_path), None)
    entries = read_words(args.words)
    reader = _reader(run, args, entries)
    names = names_of(run, baseline) if baseline is not None else None
    shown = run.projectors
    if baseline is not None and names is not None:
        shown = (
            Projector(names[1], baseline.projectors[-1].path),
            Projector(names[0], run.projectors[-1].path),
        )
    pictures = reader.read(with_pictures[: args.num_images], shown)
    nouns = [e.word for e in entries if e.pos.startswith("NN") and " " not in e.word]
    token_map = make_map(reader, with_pictures, shown, nouns, args.map_points)
    truth_known = reader.truth is not None
    # Of two runs the pictures show one grid each, of one run its states.
    ours = [p.grids if baseline is None else p.grids[1:] for p in pictures]
    lines, caption = _table(run, ours, truth_known)
    charts, other = charts_of(run.rows), None
    if baseline is not None and names is not None:
        theirs, their_caption = _table(baseline, [p.grids[:1] for p in pictures], truth_known)
        other = Baseline(names, theirs)
        caption = PAIR_CAPTION if caption == their_caption == FROM_LOG else their_caption
        charts = charts_of_pair(names, (run.rows, baseline.rows))
    return Report(
        run_name=run.name if baseline is None else f"{run.name} beside {baseline.name}",
        kind=kind_text(run, baseline),
        llm=_llm(run, args),
        tower=_tower(run, args),
        step=run.step,
        lines=lines,
        table_caption=caption,
        charts=charts,
        pictures=pictures,
        num_words=len(reader.words.words),
        truth_known=truth_known,
        with_sea=SEA in (kind_of(run), baseline and kind_of(baseline)),
        facts=facts_of(run, baseline, args, reader.words, len(entries), command),
        notes=notes_of(run, baseline),
        baseline=other,
        token_map=token_map,
    )


def _reader(
    run: RunFolder, args: argparse.Namespace, entries: Sequence[WordEntry]
) -> PictureReader:
    """Load what reads pictures."""
    truth = _open_truth(args.truth)
    llm, tower = _llm(run, args), _tower(run, args)
    transform = ImageTransform.from_pretrained(
        tower, run.config.get("image_aspect_ratio", "square")
    )
    device = _device(args.device)
    dtype = _dtype(args.dtype, device)
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    tokenizer = load_tokenizer(llm, model_max_length=1_000_000)
    words = Words(
        [entry.word for entry in entries[: args.num_words]], tokenizer, embedding_rows(llm)
    )
    llava = build_llava(
        llm,
        tower,
        dtype=dtype,
        select_layer=int(run.config.get("mm_vision_select_layer", -2)),
    )
    _move_what_works(llava, device)
    return PictureReader(
        Stage1Model(llava),
        tokenizer,
        words,
        transform,
        args.image_folder,
        patch_grid(llava.config.vision_config),
        truth,
        device,
    )


def _llm(run: RunFolder, args: argparse.Namespace) -> str:
    return args.model_name_or_path or _setting(run, "_name_or_path", "--model_name_or_path")


def _tower(run: RunFolder, args: argparse.Namespace) -> str:
    return args.vision_tower or _setting(run, "mm_vision_tower", "--vision_tower")


def _table(
    run: RunFolder, grids: Sequence[Sequence[Grid]], truth_known: bool
) -> tuple[list[Line], str]:
    """Return the table and its caption; what the log does not hold the pictures below tell."""
    lines = lines_of(run.rows, run.step) if run.step is not None else []
    if any(line.key in PRECISION_KEYS for line in lines):
        return lines, FROM_LOG
    lines += lines_of_pictures(grids, truth_known)
    why = (
        "The run's log does not say which step this projector is of"
        if run.step is None and run.rows
        else "The run's log holds no held-out measurements"
    )
    return lines, f"{why}: TACS, gaps, lengths and nearest words are those of the pictures below."


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
