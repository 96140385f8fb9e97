"""A record as the model will see it: runs of tokens, each supervised (+) or not (.).

Text is decoded from the token ids, not copied from the record, so a template's or a mask's fault
shows. The picture's tokens are folded: ``<image x576>``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

from llava_sea.constants import IGNORE_INDEX
from llava_sea.data.tokenize import Tokenized

_WIDTH = 100


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
    has_bos = bool(kinds) and tokens.input_ids[0] == bos_id
    runs = []
    for (_, kind), group in groupby(enumerate(kinds), lambda at: (has_bos and at[0] == 0, at[1])):
        start = next(group)[0]
        runs.append(Run(start, start + 1 + sum(1 for _ in group), kind))
    return runs


def show_tokens(tokens: Tokenized, tokenizer: Any) -> Iterator[Line]:
    """Yield the display: the text run by run, then the token ids run by run.

    Args:
        tokens: the record, tokenised (and cut) for training.
        tokenizer: what tokenised it.
    """
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
    text: str = tokenizer.decode(
        ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
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
