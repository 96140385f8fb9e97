"""All that a run reads, checked: its labels, its records, its held-out records."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from llava_sea.alignment import LabelStore
from llava_sea.check.findings import Findings
from llava_sea.check.records import RecordChecker, check_records
from llava_sea.check.setup import Setup, open_run_labels
from llava_sea.data.problems import DATA_FILE, LABEL_STORE, SAME_ID, RecordError
from llava_sea.data.records import Record, parse_records
from llava_sea.errors import UserError
from llava_sea.progress import Progress
from llava_sea.train.arguments import Arguments

_SMALL = 500  # records that are not worth starting processes for


class CheckedFile(NamedTuple):
    """A data file's good records, and the number of tokens of every record."""

    records: list[Record]
    lengths: Sequence[int]


def check_paths(arguments: Arguments, *, open_images: bool) -> None:
    """See that the flags name files and folders that are there.

    Raises:
        UserError: naming the flag.
    """
    _, data, sea, _ = arguments
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
    setup: Setup, findings: Findings, open_images: bool = True, num_workers: int | None = None
) -> CheckedFile:
    """Check labels, training data and held-out data; return the training data.

    Without `num_workers` there is one process a core, unless there is little to do.
    """
    _, data, sea, _ = setup.arguments
    store = _check_labels(setup, findings) if sea.enabled else None
    checker = RecordChecker(setup, data.image_folder, open_images, store)
    checked = _check_file(data.data_path, checker, findings, num_workers)
    if sea.sea_eval_data is not None:
        folder = sea.sea_eval_image_folder or data.image_folder
        checker = RecordChecker(setup, folder, open_images)
        _check_file(sea.sea_eval_data, checker, findings, num_workers, sea.sea_eval_samples)
    return checked


def _check_labels(setup: Setup, findings: Findings) -> LabelStore | None:
    where = str(setup.arguments[2].sea_labels)
    try:
        return open_run_labels(setup)
    except UserError as error:
        what = str(error).removeprefix("--sea_labels ").removeprefix(f"{where}: ")
        findings.add(RecordError(LABEL_STORE, what, file=where))
    try:  # one that does not fit the run: its images can be compared all the same
        return LabelStore(where)
    except UserError:
        return None


def _check_file(
    path: str,
    checker: RecordChecker,
    findings: Findings,
    num_workers: int | None,
    limit: int = sys.maxsize,
) -> CheckedFile:
    """Check one file; beyond `limit` only the records' shape."""
    try:
        items = [
            item
            for number, item in enumerate(parse_records(path))
            if number < limit or isinstance(item, RecordError)
        ]
    except UserError as error:
        what = str(error).removeprefix(f"{path}: ")
        findings.add(RecordError(DATA_FILE, what, file=path))
        return CheckedFile([], [])
    if num_workers is None:
        few = len(items) < _SMALL or sys.platform != "linux"
        num_workers = 0 if few else len(os.sched_getaffinity(0))
    tokens, supervised = [], []
    first: dict[object, int | None] = {}
    with Progress("records", len(items)) as progress:
        results = check_records(checker, items, num_workers, progress.update)
        for item, checked in zip(items, results, strict=True):
            tokens.append(checked.num_tokens)
            supervised.append(checked.num_supervised)
            for problem in checked.problems:
                findings.add(problem)
            if item.id is not None and first.setdefault(item.id, item.index) != item.index:
                same = f"record {first[item.id]} has it too"
                findings.add(RecordError(SAME_ID, same, item.index, item.id, path))
    records = [item for item in items if isinstance(item, Record)]
    with_image = sum(record.image is not None for record in records)
    findings.note(f"{path}: {len(items)} records, {with_image} with an image")
    findings.spread("tokens with the image's", tokens)
    findings.spread("supervised tokens", supervised)
    return CheckedFile(records, tokens)
