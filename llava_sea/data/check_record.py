"""One record, asked everything that training will ask of it; nothing stops at the first fault.

The questions are put to training's own functions, so what passes here passes there: the text is
rendered and tokenised, the picture read whole, its labels looked up.
"""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

from PIL import Image

from llava_sea.alignment.label_store import LabelStore
from llava_sea.constants import IGNORE_INDEX, IMAGE_TOKEN
from llava_sea.conversation import Template, begins_with_gpt, has_literal_image, render
from llava_sea.data import problems
from llava_sea.data.check_text import check_meaning
from llava_sea.data.control_tokens import tell, typed_tokens
from llava_sea.data.images import MAX_PIXELS, MAX_SIDE, load_image, resolve_image_path
from llava_sea.data.problems import Kind, Problem, strip_name
from llava_sea.data.records import Record, RecordError
from llava_sea.data.tokenize import tell_beyond, tokenize_record
from llava_sea.errors import UserError
from llava_sea.files import IMAGE_BYTES


class Checked(NamedTuple):
    """What came of a record; both counts are before a cut, and 0 where there are no tokens."""

    problems: list[Problem]
    num_tokens: int = 0
    num_supervised: int = 0


@dataclass(frozen=True)
class RecordChecker:
    """Checks records of one file; safe in worker processes.

    Attributes:
        file: the data file, as messages name it.
        template: how conversations are written.
        tokenizer: the language model's, fast.
        image_tokens: tokens of a picture.
        model_max_length: longest sequence, in tokens.
        image_folder: where the pictures are.
        open_images: False leaves the files alone; paths and labels are still checked.
        store: labels for the pictures, if there are any.
        num_rows: of the LLM's embedding table.
    """

    file: str
    template: Template
    tokenizer: Any
    image_tokens: int
    model_max_length: int
    image_folder: str
    open_images: bool = True
    store: LabelStore | None = None
    num_rows: int = sys.maxsize

    def __call__(self, record: Record | RecordError) -> Checked:
        """Check one record, or pass on why it is none."""
        if isinstance(record, RecordError):
            kind = problems.BAD_SHAPE if record.is_json else problems.BROKEN_JSON
            name = f"record {record.index} (id {record.id!r})"
            what = strip_name(record, self.file, name, f"record {record.index}")
            return Checked([Problem(kind, what, record.index, record.id)])
        found, num_tokens, num_supervised = self._check_text(record)
        for image in record.images:
            found += self._check_picture(record, image)
        return Checked(
            [Problem(kind, what, record.index, record.id) for kind, what in found],
            num_tokens,
            num_supervised,
        )

    def _check_text(self, record: Record) -> tuple[list[tuple[Kind, str]], int, int]:
        limit = self.model_max_length
        reading = (record, self.template, self.tokenizer, self.image_tokens)
        try:
            if not self.template.caption_only:
                check_meaning(record)
            tokens = tokenize_record(*reading, sys.maxsize)
        except UserError as error:
            kind = _text_kind(record, self.template, str(error))
            return [(kind, strip_name(error, record.name))], 0, 0
        labels = tokens.labels
        found: list[tuple[Kind, str]] = []
        if beyond := tell_beyond(tokens.input_ids[:limit], self.tokenizer, self.num_rows):
            found.append((problems.BEYOND_TABLE, beyond))
        if len(labels) > limit:
            try:
                tokenize_record(*reading, limit)
                lost = sum(label != IGNORE_INDEX for label in labels[limit:])
                cut = f"{len(labels)} tokens, --model_max_length {limit} takes {lost} supervised"
                found.append((problems.CUT, f"{cut} ones away"))
            except UserError as error:
                found.append((problems.TOO_LONG, strip_name(error, record.name)))
        found += _odd_texts(record, self.template, self.tokenizer)
        return found, len(labels), sum(label != IGNORE_INDEX for label in labels)

    def _check_picture(self, record: Record, image: str) -> list[tuple[Kind, str]]:
        found, crc32 = [], None
        try:
            resolve_image_path(self.image_folder, image, record.id)
            if self.open_images:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                    crc32 = load_image(self.image_folder, image, record.id).crc32
        except UserError as error:
            kind = _picture_kind(self.image_folder, image)
            found.append((kind, strip_name(error, f"record {record.id!r}")))
            if kind is problems.PICTURE_OUTSIDE:
                return found
        if self.store is not None:
            found += _check_labels(self.store, image, crc32)
        return found


def _odd_texts(record: Record, template: Template, tokenizer: Any) -> list[tuple[Kind, str]]:
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


def _text_kind(record: Record, template: Template, message: str) -> Kind:
    """Tell what kind of fault kept a record from becoming tokens."""
    try:
        render(record, template)
        check_meaning(record)
    except UserError:
        if template.caption_only and record.image is None:
            return problems.NO_PICTURE
        if f" {IMAGE_TOKEN} " in message.removeprefix(record.name):
            return problems.IMAGE_TOKENS if record.images else problems.PLACE_ALONE
        is_caption = [turn.role for turn in record.turns] == ["human", "gpt"]
        return problems.EMPTY_CAPTION if template.caption_only and is_caption else problems.TURNS
    return problems.NOTHING_SUPERVISED


def _picture_kind(folder: str, image: str) -> Kind:
    """Tell what kind of fault kept a picture from being read."""
    try:
        path = resolve_image_path(folder, image, "")
    except UserError:
        return problems.PICTURE_OUTSIDE
    if not os.path.exists(path):
        return problems.PICTURE_MISSING
    if not os.path.isfile(path):
        return problems.PICTURE_NOT_A_FILE
    if os.path.getsize(path) > IMAGE_BYTES:
        return problems.PICTURE_TOO_LARGE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                width, height = opened.size
    except Image.DecompressionBombError:
        return problems.PICTURE_TOO_LARGE
    except Exception:  # a decoder raises anything on a damaged file
        return problems.PICTURE_DAMAGED
    too_large = width * height > MAX_PIXELS or max(width, height) > MAX_SIDE
    return problems.PICTURE_TOO_LARGE if too_large else problems.PICTURE_DAMAGED


def _check_labels(store: LabelStore, image: str, crc32: int | None) -> list[tuple[Kind, str]]:
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
