"""A record as the model will see it: runs of tokens, each supervised (+) or not (.).

Text is decoded from the token ids, not copied from the record, so a template's or a mask's fault
shows. The image's tokens are folded: ``<image x576>``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from llava_sea.check.setup import Setup
from llava_sea.constants import IGNORE_INDEX
from llava_sea.data.image_source import ImageSource, open_images
from llava_sea.data.images import load_image
from llava_sea.data.problems import RecordError
from llava_sea.data.records import Record, Records
from llava_sea.data.tokenize import Tokenized, tokenize_record
from llava_sea.errors import UserError

_WIDTH = 100
_STYLES = {"supervised": "bold green", "prompt": "", "image": "cyan"}


def show_records(indices: Sequence[int], setup: Setup, console: Console) -> int:
    """Print records, or what keeps the model from seeing them; 1 if something does, else 0."""
    data = setup.arguments[1]
    records = Records.of_files(data.data_path, weighted=False)
    images, file = open_images(data.image_folder, records), " ".join(data.data_path)
    status = 0
    for index in indices:
        if not 0 <= index < len(records):
            raise UserError(f"--show {index}: {file} holds records 0 to {len(records) - 1}")
        item = records.item(index)
        if isinstance(item, RecordError):
            console.print(str(item))
            status = 1
            continue
        console.print(f"{item.name} of {item.file}, --version {setup.reader.template.name}")
        try:
            for image in item.images:
                console.print(f"image {image}: {_describe_image(item, image, setup, images)}")
            tokens = tokenize_record(item, *setup.reader.reading)
        except RecordError as error:
            console.print(error.what)
            status = 1
            continue
        supervised = sum(label != IGNORE_INDEX for label in tokens.labels)
        console.print(
            f"{len(tokens.labels)} tokens: {sum(tokens.image_mask)} of the image, {supervised} "
            "supervised (+), the others not (.)\n"
        )
        for line in show_tokens(tokens, setup.reader.tokenizer):
            console.print(Text(line.text, _STYLES.get(line.kind, "")))
        console.print()
    return status


def _describe_image(record: Record, name: str, setup: Setup, images: str | ImageSource) -> str:
    data = setup.arguments[1]
    image = load_image(images, name, record.id).image
    height, width = setup.reader.transform.resolution
    return (
        f"{image.width} x {image.height} pixels, seen as {width} x {height} "
        f"({data.image_aspect_ratio}), {setup.grid[0]} x {setup.grid[1]} patches"
    )


class Run(NamedTuple):
    """Tokens ``start .. stop - 1`` of one kind: `image`, `supervised` or `prompt`."""

    start: int
    stop: int
    kind: str


class Line(NamedTuple):
    """A line of the display and the kind of what stands on it."""

    text: str
    kind: str = ""


def token_runs(tokens: Tokenized, bos_id: int | None) -> list[Run]:
    """Cut a sequence where its kind changes, and behind a BOS at its beginning."""
    kinds = [
        "image" if is_image else "prompt" if label == IGNORE_INDEX else "supervised"
        for label, is_image in zip(tokens.labels, tokens.image_mask, strict=True)
    ]
    begins = [n for n in range(len(kinds)) if n == 0 or kinds[n] != kinds[n - 1]]
    if tokens.input_ids[:1] == [bos_id] and begins[1:2] != [1]:
        begins.insert(1, 1)
    runs = [Run(start, stop, kinds[start]) for start, stop in pairwise([*begins, len(kinds)])]
    return runs


def show_tokens(tokens: Tokenized, tokenizer: Any) -> Iterator[Line]:
    """Yield the display: the text run by run, then the token ids run by run."""
    bos_id = tokenizer.bos_token_id
    runs = token_runs(tokens, bos_id)
    chunk = 0  # where the text that was tokenised in one piece begins
    for run in runs:
        if run.kind == "image":
            chunk = run.stop
            yield Line(f". <image x{run.stop - run.start}>", run.kind)
            continue
        before = _decode(tokenizer, tokens.input_ids[chunk : run.start])
        text = _decode(tokenizer, tokens.input_ids[chunk : run.stop])[len(before) :]
        if run.stop == 1 and tokens.input_ids[0] == bos_id:
            chunk = 1
        for line in text.splitlines(keepends=True):
            yield Line(f"{_mark(run)} {_escape(line)}", run.kind)
    yield Line("")
    yield Line("token ids")
    for run in runs:
        ids = tokens.input_ids[run.start : run.stop]
        if run.kind == "image":
            yield Line(f". {ids[0]} x{len(ids)}", run.kind)
            continue
        pieces = tokenizer.convert_ids_to_tokens(ids)
        cells = [f"{id_} {_escape(piece)}" for id_, piece in zip(ids, pieces, strict=True)]
        yield from (Line(f"{_mark(run)} {row}", run.kind) for row in _wrap(cells))


def _mark(run: Run) -> str:
    return "+" if run.kind == "supervised" else "."


def _decode(tokenizer: Any, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def _escape(text: str) -> str:
    """Write line breaks and what a terminal would obey or hide as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _wrap(cells: list[str]) -> Iterator[str]:
    row = ""
    for cell in cells:
        if row and len(row) + 3 + len(cell) > _WIDTH:
            yield row
            row = ""
        row += f"   {cell}" if row else cell
    if row:
        yield row
