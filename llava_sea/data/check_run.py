"""Check all that a run reads: its labels, its records, its held-out records; then their losses."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from llava_sea.alignment import LabelStore
from llava_sea.data.check_pool import check_records
from llava_sea.data.check_record import RecordChecker
from llava_sea.data.check_setup import Setup, check_labels
from llava_sea.data.collator import Collator
from llava_sea.data.dataset import LazySupervisedDataset
from llava_sea.data.findings import Findings, Lengths
from llava_sea.data.losses import all_losses
from llava_sea.data.problems import DATA_FILE, LABEL_STORE, LOSS, SAME_ID, Problem, strip_name
from llava_sea.data.records import Record, RecordError, parse_records
from llava_sea.data.tokenize import padding_id
from llava_sea.errors import UserError
from llava_sea.files import open_atomically
from llava_sea.model.builder import build_llava
from llava_sea.model.stage1 import Stage1Model
from llava_sea.progress import Progress
from llava_sea.train.arguments import DataArguments, SeaArguments
from llava_sea.train.arithmetic import dtype_and_attention
from llava_sea.train.llava_config import llava_parts
from llava_sea.train.parse import Arguments

_SMALL = 500  # records that are not worth starting processes for


class CheckedFile(NamedTuple):
    """A data file's good records, and the number of tokens of every record."""

    records: list[Record]
    lengths: Sequence[int]


def check_paths(data: DataArguments, sea: SeaArguments, *, open_images: bool) -> None:
    """See that the flags name files and folders that are there.

    Raises:
        UserError: naming the flag.
    """
    files = {"data_path": data.data_path, "sea_eval_data": sea.sea_eval_data}
    for flag, file in files.items():
        if file is not None and not os.path.isfile(file):
            raise UserError(f"--{flag} {file}: no such file")
    folders = {
        "image_folder": data.image_folder,
        "sea_eval_image_folder": sea.sea_eval_image_folder,
    }
    for flag, folder in folders.items():
        if open_images and folder is not None and not os.path.isdir(folder):
            raise UserError(f"--{flag} {folder}: no such folder")


def check_data(
    arguments: Arguments,
    setup: Setup,
    findings: Findings,
    *,
    open_images: bool = True,
    num_workers: int | None = None,
) -> CheckedFile:
    """Check labels, training data and held-out data.

    Args:
        arguments: the training flags.
        setup: what reading a record depends on.
        findings: takes the problems.
        open_images: False leaves the picture files alone.
        num_workers: processes; None for one a core unless there is little to do.

    Returns:
        The training data.
    """
    model_args, data, sea, args = arguments
    store = None
    if sea.enabled:
        where = str(sea.sea_labels)
        try:
            store = check_labels(model_args, sea, args, setup)
        except UserError as error:
            what = strip_name(error, f"--sea_labels {where}", where)
            findings.add(Problem(LABEL_STORE, what), where)
            store = _open_anyway(where)

    def check_file(path: str, folder: str, store: LabelStore | None, limit: int) -> CheckedFile:
        """Check one file; beyond `limit` only the records' shape."""
        try:
            items = list(parse_records(path))
        except UserError as error:
            findings.add(Problem(DATA_FILE, strip_name(error, path)), path)
            return CheckedFile([], [])
        items = [item for item in items if item.index < limit or isinstance(item, RecordError)]
        checker = RecordChecker(
            path,
            setup.template,
            setup.tokenizer,
            setup.image_tokens,
            setup.model_max_length,
            folder,
            open_images,
            store,
            setup.num_rows,
        )
        lengths = _check_items(checker, items, findings, num_workers)
        records = [item for item in items if isinstance(item, Record)]
        with_picture = sum(record.image is not None for record in records)
        findings.note(f"{path}: {len(items)} records, {with_picture} with a picture")
        for line in lengths.lines():
            findings.note(line)
        return CheckedFile(records, lengths.tokens)

    checked = check_file(data.data_path, data.image_folder, store, sys.maxsize)
    if sea.sea_eval_data is not None:
        folder = sea.sea_eval_image_folder or data.image_folder
        check_file(sea.sea_eval_data, folder, None, sea.sea_eval_samples)
    return checked


def _open_anyway(directory: str) -> LabelStore | None:
    """Open a store that does not fit the run: its pictures can be compared all the same."""
    try:
        return LabelStore(directory)
    except UserError:
        return None


def _check_items(
    checker: RecordChecker,
    items: list[Record | RecordError],
    findings: Findings,
    num_workers: int | None,
) -> Lengths:
    if num_workers is None:
        few = len(items) < _SMALL or sys.platform != "linux"
        num_workers = 0 if few else len(os.sched_getaffinity(0))
    lengths = Lengths()
    first: dict[str, int] = {}
    with Progress("records", len(items)) as progress:
        results = check_records(
            checker, items, num_workers, lambda done: progress.update(done - progress.n)
        )
        for item, checked in zip(items, results, strict=True):
            lengths.add(checked)
            for problem in checked.problems:
                findings.add(problem, checker.file)
            if item.id is not None and first.setdefault(item.id, item.index) != item.index:
                same = f"record {first[item.id]} has it too"
                findings.add(Problem(SAME_ID, same, item.index, item.id), checker.file)
    return lengths


def compute_losses(
    path: str,
    arguments: Arguments,
    setup: Setup,
    checked: CheckedFile,
    findings: Findings,
    num_workers: int,
) -> None:
    """Write each record's loss as a JSON line; the file appears when it is whole.

    Args:
        path: the file; an older one is replaced.
        arguments: the training flags: the model, its dtype and batch size.
        setup: what reading a record depends on.
        checked: records without problems.
        findings: takes losses that are not finite; they are written as null.
        num_workers: processes that read pictures.
    """
    model_args, data, _, args = arguments
    dtype, attention = dtype_and_attention(args, None)
    llava = build_llava(**llava_parts(model_args, args), dtype=dtype, attention=attention)
    reading = setup.reading()
    dataset = LazySupervisedDataset(checked.records, data.image_folder, **reading)
    pad_id = padding_id(setup.tokenizer, setup.num_rows)
    collator = Collator(pad_id, setup.transform.resolution, setup.image_tokens)
    try:
        with (
            Progress("losses", len(dataset)) as progress,
            open_atomically(Path(path)) as file,
        ):
            losses = all_losses(
                Stage1Model(llava),
                dataset,
                collator,
                checked.lengths,
                batch_size=args.per_device_eval_batch_size,
                device=args.device,
                num_workers=num_workers,
                progress=lambda done: progress.update(done - progress.n),
            )
            for record, (loss, ids) in zip(checked.records, losses, strict=True):
                finite = loss if abs(loss) < float("inf") else None
                if finite is None:
                    problem = Problem(LOSS, f"it is {loss}", record.index, record.id)
                    findings.add(problem, data.data_path)
                row = {"id": record.id, "index": record.index, "loss": finite}
                row |= {"num_tokens": len(ids), "supervised_ids": ids}
                file.write(json.dumps(row).encode() + b"\n")
    except OSError as error:
        raise UserError(f"--losses {path}: cannot be written ({error.strerror})") from None
