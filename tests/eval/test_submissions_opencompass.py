import csv
import re
import zipfile
from xml.etree import ElementTree

import pytest

from llava_sea.errors import UserError
from llava_sea.eval.answers import Answer
from llava_sea.eval.submissions_opencompass import write_mmbench, write_xlsx

MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
# The columns of mmbench_dev_20230712.tsv.
HEADER = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image"]
HEADER += ["source", "l2-category", "comment", "split"]
ROWS = [
    [7, "Is 1 < 2 & 3 > 2?", "look", "yes", "no", "", "", "A", "c", "iVBOR", "w", "l", "", "dev"],
    [1000007, "Line\nbreak", "", "no", "yes", "", "", "B", "c", "iVBOR", "w", "l", "", "dev"],
]


def write_table(path, rows=ROWS, header=HEADER):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t").writerows([header, *rows])
    return path


def read_xlsx(path):
    """Read a sheet by the relations from the package's root, as a reader does."""
    with zipfile.ZipFile(path) as book:
        assert book.testzip() is None
        parts = {name: ElementTree.fromstring(book.read(name)) for name in book.namelist()}
    typed = {
        part.get("PartName")
        for part in parts["[Content_Types].xml"]
        if part.tag.endswith("Override")
    }
    assert typed == {"/xl/workbook.xml", "/xl/worksheets/sheet1.xml"}
    workbook = parts["_rels/.rels"][0].get("Target")
    (sheet,) = parts[workbook].iter(f"{MAIN}sheet")
    identity = next(value for name, value in sheet.items() if name.endswith("}id"))
    (relation,) = [r for r in parts["xl/_rels/workbook.xml.rels"] if r.get("Id") == identity]
    rows = []
    for number, row in enumerate(parts[f"xl/{relation.get('Target')}"].iter(f"{MAIN}row"), 1):
        assert row.get("r") == str(number)
        cells = {}
        for cell in row:
            column, at = re.fullmatch(r"([A-Z])(\d+)", cell.get("r")).groups()
            assert at == str(number)
            if cell.get("t") == "inlineStr":
                cells[column] = cell.find(f"{MAIN}is/{MAIN}t").text
            else:
                cells[column] = int(cell.find(f"{MAIN}v").text)
        rows.append(cells)
    return rows


def test_submission_has_llavas_columns(tmp_path):
    path = tmp_path / "answers_upload" / "mmbench_dev_20230712" / "model.xlsx"
    given = [Answer("1000007", "", " B & <b>\n\tfür 鸟 🐦"), Answer(7, "", "A")]  # any order
    assert write_mmbench(given, write_table(tmp_path / "dev.tsv"), path) == 0
    columns = ["index", "question", "A", "B", "C", "D", "prediction", "answer", "split"]
    assert read_xlsx(path) == [
        dict(zip("ABCDEFGHI", columns, strict=True)),
        {"A": 7, "B": "Is 1 < 2 & 3 > 2?", "C": "yes", "D": "no", "G": "A", "H": "A", "I": "dev"},
        {
            "A": 1000007,
            "B": "Line\nbreak",
            "C": "no",
            "D": "yes",
            "G": " B & <b>\n\tfür 鸟 🐦",
            "H": "B",
            "I": "dev",
        },
    ]


def test_the_test_tables_and_the_chinese_columns(tmp_path):
    header = [name.replace("l2", "L2") for name in HEADER if name != "answer"]
    rows = [row[:7] + row[8:] for row in ROWS]
    path = tmp_path / "x.xlsx"
    given = [Answer(7, "", "A"), Answer(1000007, "", "B")]
    write_mmbench(given, write_table(tmp_path / "test.tsv", rows, header), path)
    assert list(read_xlsx(path)[0].values()) == (
        ["index", "question", "A", "B", "C", "D", "prediction", "split"]
    )


def test_cells_without_a_value_are_empty(tmp_path):
    rows = [[7, "Which?", "NA", "yes", "no", "None", "n/a", "A", *ROWS[0][8:]]]
    path = tmp_path / "x.xlsx"
    write_mmbench([Answer(7, "", "None")], write_table(tmp_path / "dev.tsv", rows), path)
    cells = read_xlsx(path)[1]
    assert cells.keys() == set("ABCDGHI") and cells["G"] == "None"  # the answer stays


def test_a_submission_with_holes_is_asked_for(tmp_path):
    table, path = write_table(tmp_path / "dev.tsv"), tmp_path / "x.xlsx"
    with pytest.raises(UserError, match="1 of 2 rows have no answer, the first is index 1000007"):
        write_mmbench([Answer(7, "", "A")], table, path)
    assert not path.exists()
    assert write_mmbench([Answer(7, "", "A")], table, path, allow_missing=True) == 1
    assert "G" not in read_xlsx(path)[2]


def test_an_answer_to_no_row_is_refused(tmp_path):
    with pytest.raises(UserError, match="question_id '8'"):
        write_mmbench([Answer(8, "", "A")], write_table(tmp_path / "dev.tsv"), tmp_path / "x.xlsx")


ODD = ["a\x00b\x1f", "\ud800", "_x0041_", "_x41_", "a\r\nb", " ", "=1+1", "\uffff"]
ESCAPED = ["a_x0000_b_x001F_", "_xD800_", "_x005F_x0041_", "_x41_", "a_x000D_\nb", " ", "=1+1"]
ESCAPED += ["_xFFFF_"]


def test_characters_that_xml_cannot_hold_are_escaped_as_the_format_says(tmp_path):
    write_xlsx([ODD], tmp_path / "x.xlsx")
    assert list(read_xlsx(tmp_path / "x.xlsx")[0].values()) == ESCAPED


def test_the_same_rows_make_the_same_file(tmp_path):
    for name in ("a", "b"):
        write_xlsx([["x", 1, None]], tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_text_too_long_for_a_cell_is_refused(tmp_path):
    write_xlsx([["x" * 32_767]], tmp_path / "x.xlsx")
    with pytest.raises(UserError, match="cell B1 has 32768 characters"):
        write_xlsx([["", "x" * 32_768]], tmp_path / "x.xlsx")


def test_openpyxl_reads_it(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    write_xlsx([["index", "prediction"], [1000007, " <B> &\nfür"], [8, None]], tmp_path / "x.xlsx")
    sheet = openpyxl.load_workbook(tmp_path / "x.xlsx").active
    assert list(sheet.iter_rows(values_only=True)) == [
        ("index", "prediction"),
        (1000007, " <B> &\nfür"),
        (8, None),
    ]
