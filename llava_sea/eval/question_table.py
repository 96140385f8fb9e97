"""MMBench's table of questions: tab-separated, the pictures in it as base64.

Columns: index, question, A, B, C, D (or more letters), image, and if there are hint, category.
A picture's cell may hold the index of another row, whose picture it shares. Which cells are absent,
and where the options end, says `llava_sea.eval.mmbench_cells`. The rotated copies of MMBench's
circular evaluation are rows of their own, so each row is asked once (LLaVA's round 0).
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import re
import string
from collections.abc import Iterator
from pathlib import Path

from llava_sea.errors import UserError
from llava_sea.eval.mmbench_cells import is_absent, shown_options
from llava_sea.eval.question import Question, check_text

MAX_CELL = 1 << 30
"""Characters of a cell; Python's csv module stops at 131,072 by itself, less than a picture."""

REQUIRED = ("index", "question", "A", "B", "image")
Row = dict[str, str]


def read_table(text: str, path: Path, suffix: str) -> list[Question]:
    r"""Read MMBench's TSV.

    Args:
        text: of the file.
        path: of the file, for messages.
        suffix: added to each prompt.

    Returns:
        Questions whose text is ``hint\nquestion\nA. ..\nB. ..`` and the suffix, whose image is the
        picture file's bytes, and whose extra fields are round_id, options and option_char.

    Raises:
        UserError: naming the line, if a column, a value or a picture is missing or broken.
    """
    rows = list(_rows(text, path))
    if not rows:
        raise UserError(f"{path}: the file holds no questions")
    pictures = _pictures(rows, path)
    return [_question(row, pictures[row["index"]], f"{path}:{line}", suffix) for line, row in rows]


def _rows(text: str, path: Path) -> Iterator[tuple[int, Row]]:
    """Yield each row with the number of its first line, cells by column, missing ones left out."""
    limit = csv.field_size_limit(MAX_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True)
    try:
        columns = next(reader)
        lacking = [name for name in REQUIRED if name not in columns]
        if lacking:
            raise UserError(
                f"{path}:1: the table has no column {', '.join(lacking)}; MMBench's has index, "
                f"question, hint, A, B, C, D, image, this one {', '.join(columns)[:200]}"
            )
        line, seen = reader.line_num + 1, set()
        for cells in reader:
            if cells:
                if len(cells) != len(columns):
                    raise UserError(
                        f"{path}:{line}: {len(cells)} cells in a table of {len(columns)} columns; "
                        "is the file whole?"
                    )
                row = {
                    name: cell
                    for name, cell in zip(columns, cells, strict=True)
                    if not is_absent(cell)
                }
                index = row.get("index")
                if index is None or index in seen:
                    state = "missing" if index is None else f"{index}, as in an earlier row"
                    raise UserError(f"{path}:{line}: the index is {state}; it must be unique")
                seen.add(index)
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}:{reader.line_num}: broken table ({error}); is the file whole?"
        ) from None
    finally:
        csv.field_size_limit(limit)


def _pictures(rows: list[tuple[int, Row]], path: Path) -> dict[str, bytes]:
    """Return the picture file of each row, by index."""
    cells = {row["index"]: row.get("image") for _, row in rows}
    decoded: dict[str, bytes] = {}

    def find(index: str, where: str) -> bytes:
        passed = [index]
        while (cell := cells[passed[-1]]) in cells:
            if cell in passed:
                raise UserError(f"{where}: its picture is that of row {cell}, which leads back")
            passed.append(str(cell))
        owner = passed[-1]
        if owner not in decoded:
            decoded[owner] = _decode(cell, where)
        return decoded[owner]

    return {row["index"]: find(row["index"], f"{path}:{line}") for line, row in rows}


def _decode(cell: str | None, where: str) -> bytes:
    if cell is None:
        raise UserError(f"{where}: the row has no picture")
    if cell.isdecimal():
        raise UserError(f"{where}: its picture is that of row {cell}, which is not in the table")
    try:
        return base64.b64decode(re.sub(r"\s", "", cell), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{where}: the picture is no base64 text ({error})") from None


def _question(row: Row, image: bytes, where: str, suffix: str) -> Question:
    options = shown_options(row, string.ascii_uppercase)
    lines = [row["hint"]] if "hint" in row else []
    lines.append(check_text(row.get("question"), where, "question"))
    lines += [f"{letter}. {option}" for letter, option in options.items()]
    text = "\n".join(lines) + suffix
    index = row["index"]
    return Question(
        int(index) if re.fullmatch(r"0|[1-9][0-9]*", index) else index,
        text,
        image,
        prompt=text,
        where=where,
        category=row.get("category"),
        extra={
            "round_id": 0,
            "options": list(options.values()),
            "option_char": list(options),
        },
    )
