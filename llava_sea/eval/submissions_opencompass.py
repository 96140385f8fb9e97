"""MMBench answers as the .xlsx that the OpenCompass server takes, the columns as LLaVA's.

Of the official table hint, category, source, image, comment and l2-category go; prediction comes
after the options. The workbook is the smallest there is: one sheet, its texts inline (ECMA-376,
part 1, section 18), which Excel, LibreOffice, openpyxl and pandas read.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from llava_sea.errors import UserError
from llava_sea.eval.answers import Answer, by_id
from llava_sea.eval.mmbench_cells import is_absent
from llava_sea.eval.scorers.mmbench import LETTERS, read_table
from llava_sea.eval.scorers.official import check_ids
from llava_sea.files import open_atomically

DROPPED = ("hint", "category", "source", "image", "comment", "l2-category")
_CELL_LIMIT = 32_767  # characters, Excel's
_DECLARATION = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_TYPES = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_FRAME = {
    "[Content_Types].xml": (
        '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{_TYPES}.sheet.main+xml"/>'
        f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{_TYPES}.worksheet+xml"/>'
        "</Types>"
    ),
    "_rels/.rels": (
        f'<Relationships xmlns="{_RELATIONS}"><Relationship Id="rId1" '
        f'Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>'
    ),
    "xl/workbook.xml": (
        f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}">'
        '<sheets><sheet name="Sheet1" sheetId="1" r:id="rId1"/></sheets></workbook>'
    ),
    "xl/_rels/workbook.xml.rels": (
        f'<Relationships xmlns="{_RELATIONS}"><Relationship Id="rId1" '
        f'Type="{_OFFICE}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>'
    ),
}
# What XML cannot hold, and a text that looks like the escape for it.
_UNWRITABLE = re.compile(
    r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|_(?=x[\dA-Fa-f]{4}_)"
)


def write_mmbench(
    answers: Sequence[Answer], table: Path, path: Path, *, allow_missing: bool = False
) -> int:
    """Write a submission.

    Args:
        answers: by row index, rotations included.
        table: the official .tsv that was asked, dev or test.
        path: the .xlsx to write; its folder is made.
        allow_missing: whether rows without an answer may stay empty; the server counts them wrong.

    Returns:
        How many rows have no answer.

    Raises:
        UserError: if an answer is to no row, a row has none, or a text is too long for a cell.
    """
    rows = read_table(table)
    texts = by_id(answers)
    keys = [str(int(row["index"])) for row in rows]
    check_ids(texts, set(keys), table)
    missing = [key for key in keys if key not in texts]
    if not rows or (missing and not allow_missing):
        raise UserError(
            f"{table}: {len(missing)} of {len(rows)} rows have no answer"
            + (f", the first is index {missing[0]}" if missing else "")
            + "; let the run answer them before it is sent"
        )
    columns = [name for name in rows[0] if name.lower() not in DROPPED]
    after = 1 + max(columns.index(name) for name in LETTERS if name in columns)
    columns.insert(after, "prediction")
    sheet: list[list[str | int | None]] = [list(columns)]
    for key, row in zip(keys, rows, strict=True):
        cells: dict[str, str | int | None] = {
            name: None if is_absent(cell) else cell for name, cell in row.items()
        }
        cells |= {"index": int(key), "prediction": texts.get(key) or None}
        sheet.append([cells[name] for name in columns])
    write_xlsx(sheet, path)
    return len(missing)


def write_xlsx(rows: Iterable[Sequence[str | int | None]], path: Path) -> None:
    """Write a workbook of one sheet; None is an empty cell.

    Raises:
        UserError: if a text is longer than a cell may be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(_row(number, cells, path) for number, cells in enumerate(rows, start=1))
    sheet = f'<worksheet xmlns="{_MAIN}"><sheetData>{data}</sheetData></worksheet>'
    with open_atomically(path) as file, zipfile.ZipFile(file, "w") as book:
        for name, text in (_FRAME | {"xl/worksheets/sheet1.xml": sheet}).items():
            # A ZipInfo has a fixed date, so the same answers make the same file.
            book.writestr(zipfile.ZipInfo(name), _DECLARATION + text, zipfile.ZIP_DEFLATED)


def _row(number: int, cells: Sequence[str | int | None], path: Path) -> str:
    out = []
    for column, cell in enumerate(cells):
        place = f"{chr(ord('A') + column)}{number}"  # 26 columns are enough
        if isinstance(cell, int):
            out.append(f'<c r="{place}"><v>{cell}</v></c>')
        elif cell is not None:
            if len(cell) > _CELL_LIMIT:
                raise UserError(
                    f"{path}: the text for cell {place} has {len(cell)} characters, a cell takes "
                    f"{_CELL_LIMIT}: {cell[:60]!r}..."
                )
            text = escape(_UNWRITABLE.sub(lambda bad: f"_x{ord(bad[0]):04X}_", cell))
            out.append(
                f'<c r="{place}" t="inlineStr"><is><t xml:space="preserve">{text}</t></is></c>'
            )
    return f'<row r="{number}">{"".join(out)}</row>'
