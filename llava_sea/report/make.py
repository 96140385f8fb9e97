"""From flags to the report's contents: load the model, read the images, gather the numbers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from transformers.utils import logging as hf_logging

from llava_sea.data.image_source import open_images
from llava_sea.data.images import ImageTransform, patch_grid
from llava_sea.data.records import Records, open_records
from llava_sea.errors import UserError
from llava_sea.labels.occurrence import Truth
from llava_sea.labels.words_file import WordEntry, read_words
from llava_sea.model.builder import build_llava, load_tokenizer
from llava_sea.model.load import embedding_rows
from llava_sea.model.stage1 import Stage1Model
from llava_sea.pretrained import pick_device
from llava_sea.report.grid import Grid
from llava_sea.report.measures import (
    IN_CAPTION,
    PRECISION,
    Line,
    charts_of,
    charts_of_pair,
    lines_of,
    lines_of_grids,
)
from llava_sea.report.page import Report
from llava_sea.report.reading import PatchReader, Words
from llava_sea.report.runs import (
    INITIAL_PROJECTOR,
    PLAIN,
    SEA,
    Projector,
    RunFolder,
    check_fit,
    differences,
    names_of,
)
from llava_sea.report.token_map import make_map

FROM_LOG = "From the run's log. Values in training are of its first and its last logged step."
PAIR_CAPTION = "From both runs' logs: the last value of each, before training the first."


def make_report(
    run: RunFolder, baseline: RunFolder | None, args: argparse.Namespace, command: str
) -> Report:
    """Make the contents of the report of a run, with another beside it or without."""
    if baseline is not None:
        check_fit(run, baseline, vars(args))
    held = open_records(args.data_path)
    records = [record for record in held if record.image is not None]
    if not records:
        raise UserError(f"--data_path {args.data_path}: no record has an image")
    entries = read_words(args.words)
    llm = _model(run, args.model_name_or_path, "_name_or_path", "--model_name_or_path")
    tower = _model(run, args.vision_tower, "mm_vision_tower", "--vision_tower")
    reader = _reader(run, args, held, entries, llm, tower)
    names, shown = None, run.projectors
    if baseline is not None:  # one grid for each run instead of the run's states
        names = names_of(run, baseline)
        both = zip(reversed(names), (baseline, run), strict=True)
        shown = tuple(Projector(name, one.projectors[-1].path) for name, one in both)
    examples = reader.read(records[: args.num_images], shown)
    nouns = [e.word for e in entries if e.pos.startswith("NN") and " " not in e.word]
    token_map = make_map(reader, records, shown, nouns, args.map_points)
    own = slice(None) if baseline is None else slice(1, None)
    lines, caption = _lines(run, [example.grids[own] for example in examples])
    charts, baseline_lines = charts_of(run.rows), None
    if baseline is not None and names is not None:
        baseline_lines, other = _lines(baseline, [example.grids[:1] for example in examples])
        caption = PAIR_CAPTION if caption == other == FROM_LOG else other
        charts = charts_of_pair(names, (run.rows, baseline.rows))
    return Report(
        run_name=run.name if baseline is None else f"{run.name} beside {baseline.name}",
        kind=_kind(run, baseline),
        step=run.step,
        lines=lines,
        table_caption=caption,
        charts=charts,
        examples=examples,
        num_words=len(reader.words.words),
        truth_known=reader.truth is not None,
        with_sea=SEA in (run.kind, baseline and baseline.kind),
        facts=[
            ("Vision tower", tower),
            ("Language model", llm),
            *_facts(run, baseline, args, reader.words, len(entries)),
            ("Command", command),
        ],
        notes=_notes(run, baseline),
        names=names,
        baseline_lines=baseline_lines or [],
        token_map=token_map,
    )


def _reader(
    run: RunFolder,
    args: argparse.Namespace,
    records: Records,
    entries: Sequence[WordEntry],
    llm: str,
    tower: str,
) -> PatchReader:
    truth = Truth(args.truth, "--truth") if args.truth else None
    transform = ImageTransform.from_pretrained(
        tower, run.config.get("image_aspect_ratio", "square")
    )
    device = pick_device(None if args.device == "auto" else args.device)
    dtype = args.dtype
    if dtype == "auto":
        dtype = "bfloat16" if device.type == "cuda" else "float32"
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    tokenizer = load_tokenizer(llm, model_max_length=1_000_000)
    words = Words([e.word for e in entries[: args.num_words]], tokenizer, embedding_rows(llm))
    llava = build_llava(
        llm,
        tower,
        dtype=getattr(torch, dtype),
        select_layer=int(run.config.get("mm_vision_select_layer", -2)),
    )
    # The LLM's layers are not needed and stay behind.
    llava.model.vision_tower.to(device)
    llava.model.multi_modal_projector.to(device)
    llava.get_input_embeddings().to(device)
    grid = patch_grid(llava.config.vision_config)
    model, folder = Stage1Model(llava), open_images(args.image_folder, records)
    return PatchReader(model, tokenizer, words, transform, folder, grid, truth, device)


def _lines(run: RunFolder, grids: Sequence[Sequence[Grid]]) -> tuple[list[Line], str]:
    """Return the measures and their source; measures that the log lacks are the shown images'."""
    lines = lines_of(run.rows, run.step) if run.step is not None else []
    if any(line.key in (PRECISION, IN_CAPTION) for line in lines):
        return lines, FROM_LOG
    why = "The run's log holds no held-out measurements"
    if run.step is None and run.rows:
        why = "The run's log does not say which step this projector is of"
    caption = f"{why}: TACS, gaps, lengths and nearest words are those of the images below."
    return lines + lines_of_grids(grids), caption


def _model(run: RunFolder, given: str | None, key: str, flag: str) -> str:
    """Return a model's name: the flag's, else the one in the run's config."""
    name = given or run.config.get(key)
    if not isinstance(name, str) or not name:
        raise UserError(
            f"--run {run.root}: its config.json has no {key!r}; is it LLaVA's? Or pass {flag}"
        )
    return name


def _kind(run: RunFolder, baseline: RunFolder | None) -> str:
    """Say what was trained, and for how long."""
    steps = "" if run.step is None else f" · {run.step:,} steps"
    if baseline is not None:
        return "stage 1" + (f"{steps} each" if steps and run.step == baseline.step else "")
    kinds = {SEA: "stage 1 with SEA", PLAIN: "stage 1, plain LLaVA"}
    return kinds.get(run.kind or "", "stage 1") + steps


def _notes(run: RunFolder, baseline: RunFolder | None) -> list[str]:
    """Say what is missing, and what makes two runs hard to compare."""
    if baseline is None:
        return run.notes
    # Of two runs the untrained projector is not shown, so nobody misses it.
    notes = [
        f"{one.name}: {note}"
        for one in (run, baseline)
        for note in one.notes
        if INITIAL_PROJECTOR not in note
    ]
    if run.step != baseline.step:
        steps = [f"{one.name} {one.step}" for one in (run, baseline) if one.step is not None]
        notes.append(f"The runs stand at different steps: {', '.join(steps)}.")
    if "data_sha256" in differences(run, baseline):
        notes.append("The runs were trained on different data.")
    return notes


def _facts(
    run: RunFolder,
    baseline: RunFolder | None,
    args: argparse.Namespace,
    words: Words,
    num_entries: int,
) -> list[tuple[str, str]]:
    """Return the files and flags the report was made from: names and values."""
    listed = f"{args.words}: {len(words.words):,} of {num_entries:,} entries, the most frequent"
    if words.num_dropped:
        listed += f"; {words.num_dropped:,} that the tokenizer cannot write are left out"
    facts = [("Run", str(run.root))]
    if baseline is None:
        facts += [(f"Projector, {one.label}", str(one.path)) for one in run.projectors]
    else:
        facts.append(("Beside it", str(baseline.root)))
        facts += [("Projector", str(one.projectors[-1].path)) for one in (run, baseline)]
        facts += [
            (f"Differs: {name}", f"{_short(ours)}, beside it {_short(theirs)}")
            for name, (ours, theirs) in differences(run, baseline).items()
        ]
    truth = str(args.truth) if args.truth else "none given; words of the caption are marked"
    return [*facts, ("Held-out records", str(args.data_path)), ("Words", listed), ("Truth", truth)]


def _short(value: str) -> str:
    """Cut a checksum: it is enough to see that it is another."""
    return value[:12] + "…" if len(value) == 64 and value.isalnum() else value
