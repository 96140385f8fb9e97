"""One record, asked everything that training will ask of it; nothing stops at the first fault.

The questions are put to training's own functions, so what passes here passes there: the text is
rendered and tokenised, the image read whole, its labels looked up.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from PIL import Image
from torch.utils.data import DataLoader, Dataset

from llava_sea.alignment.label_store import LabelStore
from llava_sea.check.setup import Setup
from llava_sea.constants import IGNORE_INDEX, IMAGE_TOKEN
from llava_sea.conversation import Template, begins_with_gpt, has_literal_image
from llava_sea.data import problems
from llava_sea.data.control_tokens import tell, typed_tokens
from llava_sea.data.images import load_image, resolve_image_path
from llava_sea.data.preflight import check_meaning
from llava_sea.data.problems import Kind, RecordError
from llava_sea.data.records import Record
from llava_sea.data.tokenize import tell_beyond, tokenize_record
from llava_sea.errors import UserError

_CHUNK = 32

Faults = list[tuple[Kind, str]]


class Checked(NamedTuple):
    """The result for a record; both counts are before a cut, and 0 where there are no tokens."""

    problems: list[RecordError]
    num_tokens: int = 0
    num_supervised: int = 0


@dataclass(frozen=True)
class RecordChecker:
    """Checks records; safe in worker processes.

    Attributes:
        setup: how records are read.
        image_folder: where the images are.
        open_images: False leaves the files alone; paths and labels are still checked.
        store: labels for the images, if there are any.
    """

    setup: Setup
    image_folder: str
    open_images: bool = True
    store: LabelStore | None = None

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
        setup, limit = self.setup, self.setup.max_length
        try:
            if not setup.template.caption_only:
                check_meaning(record)
            tokens = tokenize_record(record, *setup.reading, sys.maxsize)
        except RecordError as error:
            return [(error.kind, error.what)], 0, 0
        labels = tokens.labels
        found: Faults = []
        if beyond := tell_beyond(tokens.input_ids[:limit], setup.tokenizer, setup.num_rows):
            found.append((problems.BEYOND_TABLE, beyond))
        if len(labels) > limit:
            try:
                tokenize_record(record, *setup.reading, limit)
                lost = sum(label != IGNORE_INDEX for label in labels[limit:])
                cut = f"{len(labels)} tokens, --model_max_length {limit} takes {lost} supervised"
                found.append((problems.CUT, f"{cut} ones away"))
            except RecordError as error:
                found.append((error.kind, error.what))
        found += _odd_texts(record, setup.template, setup.tokenizer)
        return found, len(labels), sum(label != IGNORE_INDEX for label in labels)

    def _check_image(self, record: Record, image: str) -> Faults:
        found, crc32 = [], None
        try:
            resolve_image_path(self.image_folder, image, record.id)
            if self.open_images:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                    crc32 = load_image(self.image_folder, image, record.id).crc32
        except RecordError as error:
            found.append((error.kind, error.what))
            if error.kind is problems.IMAGE_OUTSIDE:
                return found
        if self.store is not None:
            found += _check_labels(self.store, image, crc32)
        return found


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
    if record.ignored:
        found.append((problems.IGNORED_KEY, f"it has {', '.join(map(repr, record.ignored))}"))
    if begins_with_gpt(record):
        found.append((problems.LEADING_GPT, f"it says {record.turns[0].text[:60]!r}"))
    if has_literal_image(record):
        found.append((problems.LITERAL_IMAGE, f'no "image", so {IMAGE_TOKEN} is text here'))
    return found


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
    items: Sequence[Record | RecordError]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Checked:
        return self.checker(self.items[index])


def check_records(
    checker: RecordChecker,
    items: Sequence[Record | RecordError],
    num_workers: int,
    progress: Callable[[int], object] = lambda more: None,
) -> Iterator[Checked]:
    """Yield what came of each record, in order.

    Most of the work is tokenising, Python all the way: therefore processes. They are forked, so
    that the records are in each without being sent.

    With 0 workers this process does it. `progress` is called with the number of records just done.

    Raises:
        UserError: if a worker process was killed.
    """
    loader = DataLoader(
        _Checks(checker, items),
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
