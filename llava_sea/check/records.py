"""All that a run reads, checked: its labels, its records, its held-out records.

Nothing stops at the first fault. The questions are put to training's own functions, so what passes
here passes there: a text is rendered and tokenised, an image read whole, its labels looked up.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from torch.utils.data import DataLoader, Dataset

from llava_sea.alignment import LabelStore
from llava_sea.check.findings import Findings
from llava_sea.check.setup import Setup, open_run_labels
from llava_sea.constants import IGNORE_INDEX
from llava_sea.conversation import Template
from llava_sea.data import problems
from llava_sea.data.control_tokens import tell, typed_tokens
from llava_sea.data.first_pass import check_meaning, odd_texts
from llava_sea.data.image_source import ImageSource, open_images
from llava_sea.data.images import load_image, resolve_image_path
from llava_sea.data.problems import Kind, RecordError
from llava_sea.data.records import Record, Records, split_weight
from llava_sea.data.tokenize import tell_beyond, tokenize_record
from llava_sea.errors import UserError
from llava_sea.progress import Progress
from llava_sea.train.arguments import Arguments

_CHUNK = 32
_SMALL = 500  # records that are not worth starting processes for
_REMEMBERED = 65_536  # images of which a process keeps the result: many records may share one

Faults = list[tuple[Kind, str]]


class CheckedFile(NamedTuple):
    """A data file's good records, and the number of tokens of every record."""

    records: Sequence[Record]
    lengths: Sequence[int]


class Checked(NamedTuple):
    """The result for a record; both counts are before a cut, and 0 where there are no tokens."""

    problems: list[RecordError]
    num_tokens: int = 0
    num_supervised: int = 0


@dataclass(frozen=True)
class RecordChecker:
    """Checks records; safe in worker processes.

    `open_images` False leaves the files alone; paths and labels are still checked.
    """

    setup: Setup
    image_folder: str | ImageSource
    open_images: bool = True
    store: LabelStore | None = None
    _seen: dict[str, tuple[Faults, int | None]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __call__(self, record: Record | RecordError) -> Checked:
        """Check one record, or pass on why it is none."""
        if isinstance(record, RecordError):
            return Checked([record])
        found, num_tokens, num_supervised = self._check_text(record)
        for image in record.images:
            found += self._check_image(record, image)
        return Checked(
            [record.error(kind, what) for kind, what in found], num_tokens, num_supervised
        )

    def _check_text(self, record: Record) -> tuple[Faults, int, int]:
        reading, num_rows = self.setup.reader.reading, self.setup.num_rows
        template, tokenizer, image_tokens, limit = reading
        try:
            if not template.caption_only:
                check_meaning(record)
            tokens = tokenize_record(record, template, tokenizer, image_tokens, sys.maxsize)
        except RecordError as error:
            return [(error.kind, error.what)], 0, 0
        labels = tokens.labels
        found: Faults = []
        if beyond := tell_beyond(tokens.input_ids[:limit], tokenizer, num_rows):
            found.append((problems.BEYOND_TABLE, beyond))
        if len(labels) > limit:
            try:
                tokenize_record(record, *reading)
                lost = sum(label != IGNORE_INDEX for label in labels[limit:])
                cut = f"{len(labels)} tokens, --model_max_length {limit} takes {lost} supervised"
                found.append((problems.CUT, f"{cut} ones away"))
            except RecordError as error:
                found.append((error.kind, error.what))
        found += _odd_texts(record, template, tokenizer)
        return found, len(labels), len(labels) - labels.count(IGNORE_INDEX)

    def _check_image(self, record: Record, image: str) -> Faults:
        if image not in self._seen:
            if len(self._seen) >= _REMEMBERED:
                self._seen.clear()
            self._seen[image] = self._read_image(record, image)
        found, crc32 = self._seen[image]
        if self.store is None or any(kind is problems.IMAGE_OUTSIDE for kind, _ in found):
            return found
        return found + _check_labels(self.store, image, crc32)

    def _read_image(self, record: Record, image: str) -> tuple[Faults, int | None]:
        """Return what is wrong with an image, whichever record it belongs to, and its CRC-32."""
        try:
            resolve_image_path(self.image_folder, image, record.id)
            if self.open_images:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                    return [], load_image(self.image_folder, image, record.id).crc32
        except RecordError as error:
            return [(error.kind, error.what)], None
        return [], None


def _odd_texts(record: Record, template: Template, tokenizer: Any) -> Faults:
    """Return what training accepts and its owner may not have meant."""
    found = []
    if any(not turn.text.strip() for turn in record.turns if turn.role == "gpt"):
        found.append((problems.EMPTY_ANSWER, "one of its gpt turns is empty"))
    if typed := typed_tokens(record, tokenizer, template):
        found.append((problems.SPECIAL_TOKEN, tell(typed)))
    for number, turn in enumerate(record.turns):
        if number and turn.role == "gpt" and turn.text[:1].isspace() and turn.text.strip():
            found.append((problems.WHITE_SPACE, f"turn {number} is {turn.text[:60]!r}"))
            break
    return found + odd_texts(record)


def _check_labels(store: LabelStore, image: str, crc32: int | None) -> Faults:
    if image not in store:
        return [(problems.NO_LABELS, f"{store.directory} has none for {image!r}")]
    if image in store.skipped:
        return [(problems.LABELS_SKIPPED, f"mining skipped {image!r}: {store.skipped[image]}")]
    try:
        mined = store.read(image).crc32
    except (OSError, ValueError) as error:
        return [(problems.LABEL_STORE, f"{store.directory}: {image!r} cannot be read ({error})")]
    if crc32 is None or crc32 == mined:
        return []
    what = f"{store.directory}: mined for another {image!r} than the one in the image folder"
    return [(problems.LABELS_STALE, what)]


@dataclass
class _Checks(Dataset[Checked]):
    checker: RecordChecker
    records: Records
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Checked:
        return self.checker(self.records.item(self.indices[index]))


def check_records(
    checker: RecordChecker,
    records: Records,
    indices: Sequence[int],
    num_workers: int,
    progress: Callable[[int], object] = lambda more: None,
) -> Iterator[Checked]:
    """Yield what came of each record, in order; `progress` is called with the numbers of new ones.

    Most of the work is tokenising, Python all the way: therefore processes. With 0
    workers this process does it.

    Raises:
        UserError: if a worker process was killed.
    """
    loader = DataLoader(
        _Checks(checker, records, indices),
        batch_size=_CHUNK,
        collate_fn=list,
        num_workers=num_workers,
        multiprocessing_context="fork" if num_workers else None,
    )
    try:
        for chunk in loader:
            yield from chunk
            progress(len(chunk))
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise UserError(
            "a worker process was killed from outside, most likely for memory; run again with "
            "--num_workers 0"
        ) from error


def check_paths(arguments: Arguments, *, open_images: bool) -> None:
    """See that the flags name files and folders that are there."""
    _, data, sea, _ = arguments
    files = [("data_path", split_weight(spec)[0]) for spec in data.data_path]
    if sea.sea_eval_data is not None:
        files.append(("sea_eval_data", Path(sea.sea_eval_data)))
    for flag, file in files:
        if not file.is_file():
            raise UserError(f"--{flag} {file}: no such file")
    for flag in ("image_folder", "sea_eval_image_folder"):
        folder = getattr(data, flag, None) or getattr(sea, flag, None)
        if open_images and folder is not None and not os.path.exists(folder):
            raise UserError(f"--{flag} {folder}: no such folder")


def check_data(
    setup: Setup, findings: Findings, open_images: bool = True, num_workers: int | None = None
) -> CheckedFile:
    """Check labels, training data and held-out data; return the training data.

    Without `num_workers` there is one process a core, unless there is little to do.
    """
    _, data, sea, _ = setup.arguments
    store = _check_store(setup, findings) if sea.enabled else None
    checker = RecordChecker(setup, data.image_folder or "", open_images, store)
    checked = _check_files(data.data_path, checker, findings, num_workers)
    if sea.sea_eval_data is not None:
        folder = sea.sea_eval_image_folder or data.image_folder or ""
        checker = RecordChecker(setup, folder, open_images)
        samples = sea.sea_eval_samples
        _check_files([sea.sea_eval_data], checker, findings, num_workers, samples)
    return checked


def _check_store(setup: Setup, findings: Findings) -> LabelStore | None:
    where = str(setup.arguments[2].sea_labels)
    try:
        return open_run_labels(setup)
    except UserError as error:
        what = str(error).removeprefix("--sea_labels ").removeprefix(f"{where}: ")
        findings.add(RecordError(problems.LABEL_STORE, what, file=where))
    try:  # one that does not fit the run: its images can be compared all the same
        return LabelStore(where)
    except UserError:
        return None


def _check_files(
    paths: Sequence[str],
    checker: RecordChecker,
    findings: Findings,
    num_workers: int | None,
    limit: int = sys.maxsize,
) -> CheckedFile:
    """Check a corpus, each file once; beyond `limit` only the records' shape."""
    try:
        records = Records.of_files(paths, weighted=False)
        source = open_images(str(checker.image_folder) or None, records)
    except UserError as error:
        path = next((p for p in paths if str(error).startswith(f"{p}: ")), " ".join(paths))
        what = str(error).removeprefix(f"{path}: ")
        findings.add(RecordError(problems.DATA_FILE, what, file=path))
        return CheckedFile([], [])
    checker = replace(checker, image_folder=source)
    faults = records.faults()
    checked_before = min(limit, len(records))
    indices = [*range(checked_before), *(place for place in faults if place >= checked_before)]
    if num_workers is None:
        few = len(indices) < _SMALL or sys.platform != "linux"
        num_workers = 0 if few else len(os.sched_getaffinity(0))
    tokens, supervised = [], []
    first: dict[tuple[object, object], int] = {}
    with Progress("records", len(indices)) as progress:
        results = check_records(checker, records, indices, num_workers, progress.update)
        for index, checked in zip(indices, results, strict=True):
            item = records.item(index)
            tokens.append(checked.num_tokens)
            supervised.append(checked.num_supervised)
            for problem in checked.problems:
                findings.add(problem)
            place = item.place if isinstance(item, Record) else item.index or 0
            if item.id is not None and first.setdefault((item.file, item.id), place) != place:
                same = f"record {first[item.file, item.id]} has it too"
                findings.add(RecordError(problems.SAME_ID, same, place, item.id, item.file))
    with_image = int((records.num_images[indices] > 0).sum())
    findings.note(f"{' '.join(paths)}: {len(indices)} records, {with_image} with an image")
    findings.spread("tokens with the image's", tokens)
    findings.spread("supervised tokens", supervised)
    faulty = set(faults)
    all_good = not faulty and len(indices) == len(records)
    good = records if all_good else [records[n] for n in indices if n not in faulty]
    return CheckedFile(good, tokens)
