"""MMBench's table, read with pandas as LLaVA reads it: tab-separated, the images in it as base64.

Columns: index, question, A, B, C, D (or more letters), image; hint, answer and category may be
there. A cell that pandas takes for no value is absent, and so is "nan" or "none" in any case, as in
LLaVA's model_vqa_mmbench.py, and a cell of blanks alone. An image's cell may hold the index of
another row, whose image it shares. The rotations of MMBench's circular evaluation are rows of their
own, so each row is asked once (LLaVA's round 0).
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from llava_sea.errors import UserError, import_extra
from llava_sea.files import read_text

Row = dict[str, str]
"""Cells by column; "" where one is absent."""


def read_table(path: Path, text: str | None = None) -> list[Row]:
    """Read the table, from its text where that has been read; each row's index is unique.

    Raises:
        UserError: if the file is not there or is no such table, naming the row by its index.
    """
    pandas = import_extra("pandas", "eval")
    text = read_text(path, None) if text is None else text
    try:
        frame = pandas.read_table(io.StringIO(text), dtype=str)
    except ValueError as error:
        raise UserError(f"{path}: broken table ({error}); is the file whole?") from None
    lacking = [name for name in ("index", "question", "A", "B") if name not in frame]
    if lacking:
        raise UserError(
            f"{path}: the table has no column {', '.join(lacking)}; MMBench's has index, question, "
            f"hint, A, B, C, D, image, this one {', '.join(frame)[:200]}"
        )
    if not len(frame):
        raise UserError(f"{path}: the table has no rows; fetch it again")
    rows = [
        {name: cell if _is_value(cell) else "" for name, cell in cells.items()}
        for cells in frame.fillna("").to_dict("records")
    ]
    seen: set[int] = set()
    for number, row in enumerate(rows, start=1):
        index = row["index"].strip()
        if not index.isdecimal():
            raise UserError(
                f"{path}: row {number}: the index {index!r} is no number; fetch the table again"
            )
        if int(index) in seen:
            raise UserError(f"{path}: index {index} is there twice; fetch the table again")
        seen.add(int(index))
        row["index"] = str(int(index))
    return rows


def _is_value(cell: str) -> bool:
    return bool(cell.strip()) and cell.lower() not in ("nan", "none")


def shown_options(row: Mapping[str, str], letters: Iterable[str]) -> dict[str, str]:
    """Return the options that a question shows, letter to text: those before the first absent."""
    shown: dict[str, str] = {}
    for letter in letters:
        if not row.get(letter):
            break
        shown[letter] = row[letter]
    return shown


def images_by_index(rows: Iterable[Row], path: Path) -> dict[str, bytes]:
    """Return the image file of each row.

    Raises:
        UserError: naming the row, if it has none or a broken one.
    """
    cells = {row["index"]: row.get("image", "") for row in rows}
    decoded: dict[str, bytes] = {}

    def find(index: str) -> bytes:
        passed = [index]
        while (cell := cells[passed[-1]]) in cells:
            if cell in passed:
                raise UserError(
                    f"{path}: index {index}: its image is that of row {cell}, which leads back"
                )
            passed.append(cell)
        if passed[-1] not in decoded:
            decoded[passed[-1]] = _decode(cell, f"{path}: index {index}")
        return decoded[passed[-1]]

    return {index: find(index) for index in cells}


def _decode(cell: str, where: str) -> bytes:
    if not cell:
        raise UserError(f"{where}: the row has no image; is the file whole?")
    if cell.isdecimal():
        raise UserError(f"{where}: its image is that of row {cell}, which is not in the table")
    try:
        return base64.b64decode(re.sub(r"\s", "", cell), validate=True)
    except ValueError as error:
        raise UserError(f"{where}: the image is no base64 text ({error})") from None
