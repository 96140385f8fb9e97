"""Submission files: ids and order from the question file, LLaVA's keys, whole or not there."""

import csv
import json

import openpyxl
import pytest

from llava_sea.errors import UserError
from llava_sea.eval.answers import Answer
from llava_sea.eval.submissions import (
    GQA_FILE,
    write_gqa,
    write_mmbench,
    write_vizwiz,
    write_vqav2,
)


def question_file(tmp_path, *rows):
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_vqav2_has_every_id_of_the_question_file(tmp_path):
    questions = question_file(
        tmp_path, {"question_id": 3}, {"question_id": 1}, {"question_id": 2, "image": "x.jpg"}
    )
    path = tmp_path / "answers_upload" / "test-dev" / "ckpt.json"
    answers = [Answer(1, "q", "Two men."), Answer("2", "q", "It's, RED")]
    write_vqav2(answers, questions, path)
    assert json.loads(path.read_text()) == [
        {"question_id": 3, "answer": ""},
        {"question_id": 1, "answer": "2 men"},
        {"question_id": 2, "answer": "it 's red"},
    ]
    assert [each.name for each in path.parent.iterdir()] == ["ckpt.json"]


def test_vizwiz_has_images(tmp_path):
    questions = question_file(
        tmp_path, {"question_id": 0, "image": "b.jpg"}, {"question_id": 1, "image": "a.jpg"}
    )
    path = tmp_path / "up.json"
    write_vizwiz([Answer(1, "q", "Unanswerable"), Answer(0, "q", "the Café")], questions, path)
    assert json.loads(path.read_text()) == [
        {"image": "b.jpg", "answer": "café"},
        {"image": "a.jpg", "answer": "unanswerable"},
    ]


def test_gqa_has_texts_for_ids(tmp_path):
    questions = question_file(tmp_path, {"question_id": "20"}, {"question_id": 10})
    path = tmp_path / GQA_FILE
    write_gqa([Answer(10, "q", "The Table."), Answer("20", "q", "Yes")], questions, path)
    assert path.name == "testdev_balanced_predictions.json"
    assert json.loads(path.read_text()) == [
        {"questionId": "20", "prediction": "yes"},
        {"questionId": "10", "prediction": "the table"},
    ]


@pytest.mark.parametrize("write", [write_vqav2, write_vizwiz, write_gqa])
def test_a_refusal_leaves_the_earlier_file(write, tmp_path):
    questions = question_file(
        tmp_path, {"question_id": 0, "image": "b.jpg"}, {"question_id": 1, "image": "a.jpg"}
    )
    path = tmp_path / "up.json"
    path.write_text("earlier")
    both = [Answer(0, "q", "yes"), Answer(1, "q", "no")]
    refused = [([*both, Answer(2, "q", "x")], "'2'"), ([*both, Answer(1, "q", "x")], "two answers")]
    if write is not write_vqav2:
        refused.append((both[:1], "1 of 2 questions have no answer: '1'"))
    for answers, message in refused:
        with pytest.raises(UserError, match=message):
            write(answers, questions, path)
        assert path.read_text() == "earlier"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["questions.jsonl", "up.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n", "no questions"),
        ('{"question_id": 1, "image": "a"}\n{"question_id": "1", "image": "b"}\n', "'1' more than"),
        ('\n{"image": "a"}\n', "jsonl:2: not a JSON object with question_id"),
        ("{\n", "jsonl:1: not a JSON object with question_id"),
    ],
)
def test_question_files_that_are_none(content, message, tmp_path):
    questions = tmp_path / "questions.jsonl"
    questions.write_text(content)
    with pytest.raises(UserError, match=message):
        write_vqav2([], questions, tmp_path / "up.json")
    assert not (tmp_path / "up.json").exists()


# The columns of mmbench_dev_20230712.tsv.
HEADER = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image"]
HEADER += ["source", "l2-category", "comment", "split"]
ROWS = [
    [7, "Is 1 < 2 & 3 > 2?", "look", "yes", "no", "", "", "A", "c", "iVBOR", "w", "l", "", "dev"],
    [1000007, "Line\nbreak", "", "no", "yes", "", "", "B", "c", "iVBOR", "w", "l", "", "dev"],
]


def write_table(tmp_path, rows=ROWS, header=HEADER):
    path = tmp_path / "table.tsv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t").writerows([header, *rows])
    return path


def read_xlsx(path):
    return list(openpyxl.load_workbook(path).active.iter_rows(values_only=True))


def test_mmbench_has_llavas_columns(tmp_path):
    path = tmp_path / "answers_upload" / "mmbench_dev_20230712" / "model.xlsx"
    given = [Answer("1000007", "", " B & <b>\n\tfür 鸟 🐦"), Answer(7, "", "A")]  # any order
    write_mmbench(given, write_table(tmp_path), path)
    assert read_xlsx(path) == [
        ("index", "question", "A", "B", "C", "D", "prediction", "answer", "split"),
        (7, "Is 1 < 2 & 3 > 2?", "yes", "no", None, None, "A", "A", "dev"),
        (1000007, "Line\nbreak", "no", "yes", None, None, " B & <b>\n\tfür 鸟 🐦", "B", "dev"),
    ]


def test_mmbenchs_test_tables_and_chinese_columns(tmp_path):
    header = [name.replace("l2", "L2") for name in HEADER if name != "answer"]
    table = write_table(tmp_path, [row[:7] + row[8:] for row in ROWS], header)
    write_mmbench([Answer(7, "", "A"), Answer(1000007, "", "B")], table, tmp_path / "x.xlsx")
    columns = ("index", "question", "A", "B", "C", "D", "prediction", "split")
    assert read_xlsx(tmp_path / "x.xlsx")[0] == columns


@pytest.mark.parametrize(
    ("answer", "cell"),
    [
        ("None", "None"),  # an answer stays, whatever pandas takes it for
        ("=1+1", "=1+1"),  # a text, no formula
        ("#N/A", "#N/A"),
        ("a\x00b\x1f\ud800\uffff", "a b   "),  # XML cannot hold these
        ("x" * 32_767, "x" * 32_767),
        ("", None),
    ],
)
def test_mmbenchs_cells(tmp_path, answer, cell):
    rows = [[7, "Which?", "NA", "yes", "no", "None", "n/a", "A", *ROWS[0][8:]]]
    path = tmp_path / "x.xlsx"
    write_mmbench([Answer(7, "", answer)], write_table(tmp_path, rows), path)
    assert read_xlsx(path)[1] == (7, "Which?", "yes", "no", None, None, cell, "A", "dev")
    assert openpyxl.load_workbook(path).active["G2"].data_type in "sn"


def test_mmbench_is_refused_with_holes_strangers_and_texts_too_long(tmp_path):
    table, path = write_table(tmp_path), tmp_path / "x.xlsx"
    for answers, message in [
        ([Answer(7, "", "A")], "1 of 2 questions have no answer: '1000007'"),
        ([Answer(8, "", "A")], "question_id '8'"),
        ([Answer(7, "", "x" * 32_768), Answer(1000007, "", "")], "index 7: prediction has 32768"),
    ]:
        with pytest.raises(UserError, match=message):
            write_mmbench(answers, table, path)
        assert not path.exists()
    write_mmbench([Answer(7, "", "A")], table, path, allow_missing=True)
    assert read_xlsx(path)[2][6] is None
