"""Question files of the three kinds, and what is wrong with broken ones."""

from __future__ import annotations

import json

import pytest

from llava_sea.errors import UserError
from llava_sea.eval.questions import distinct, read_questions

LETTER = "\nAnswer with the option's letter from the given choices directly."


def test_llavas_lines(jsonl, jsonl_rows):
    questions = read_questions(jsonl)
    assert [q.question_id for q in questions] == ["003", "003", 7, 8, 9, "003"]
    assert [q.image for q in questions[2:4]] == ["004.jpg", None]
    assert questions[2].text == questions[2].prompt == jsonl_rows[2]["text"]
    assert questions[2].first_turn == "<image>\n" + jsonl_rows[2]["text"]
    assert questions[3].first_turn == "Is there no image?"
    assert questions[1].category == "default" and questions[1].where == f"{jsonl}:2"
    assert list(distinct(questions).values()) == questions[:5]


def test_an_answers_row_is_llavas(jsonl):
    row = read_questions(jsonl)[2].row("Red", "tiny")
    assert list(row) == ["question_id", "prompt", "text", "answer_id", "model_id", "metadata"]
    assert (row["question_id"], row["text"], row["model_id"], row["metadata"]) == (
        7,
        "Red",
        "tiny",
        {},
    )


def test_the_answer_id_is_of_model_question_and_image(tmp_path):
    path = tmp_path / "q.jsonl"
    rows = [("1", "a.png", "x"), ("2", "a.png", "x"), ("1", "b.png", "x"), ("1", "a.png", "y")]
    path.write_text(
        "".join(
            json.dumps(dict(zip(("question_id", "image", "text"), row, strict=True))) + "\n"
            for row in rows
        )
    )
    ids = {q.answer_id(model) for q in read_questions(path) for model in ("m", "n")}
    assert len(ids) == 8
    assert ids == {q.answer_id(model) for q in read_questions(path) for model in ("m", "n")}


@pytest.mark.parametrize("flag", [False, True])
def test_scienceqa(conversations, flag):
    with_image, without = read_questions(conversations, single_pred_prompt=flag)
    suffix = LETTER if flag else ""
    assert with_image.text == "Context: N/A\nWhich?\nA. red\nB. blue" + suffix
    assert with_image.prompt == with_image.first_turn == "<image>\n" + with_image.text
    assert with_image.image == "006.jpg" and with_image.question_id == "4"
    assert without.prompt == without.first_turn == "Which?\nA. red\nB. blue" + suffix
    assert without.image is None


def test_mmbench(table, tiny):
    first, rotated, two = read_questions(table, single_pred_prompt=True)
    assert first.text == 'Look\nwell.\nWhich?\nA. red\nB. blue\nC. a "b"' + LETTER
    assert rotated.text == "Which?\nA. blue\nB. red" + LETTER  # C is absent, so D is not shown
    assert two.text == "Is it?\nA. yes\nB. no" + LETTER
    assert [q.question_id for q in (first, rotated, two)] == [1, 1000001, 2]
    assert first.image == rotated.image == (tiny.images / "001.png").read_bytes()
    assert two.image == (tiny.images / "002.jpg").read_bytes()
    assert two.name == f"{table}: question 2"
    row = rotated.row("B", "tiny")
    assert row["round_id"] == 0
    assert row["options"] == ["blue", "red"]
    assert row["option_char"] == ["A", "B"]


@pytest.mark.parametrize("absent", ["", "NA", "N/A", "null", "None", "#N/A", "NaN", "nAn", "NONE"])
def test_mmbenchs_cells_are_absent_as_to_llava(tmp_path, absent):
    path = tmp_path / "q.tsv"
    head = "index\tquestion\thint\tA\tB\tC\tD\timage\n"
    path.write_text(f"{head}1\tWhich?\t{absent}\tx\tna\t{absent}\tz\tQQ==\n")
    (question,) = read_questions(path)
    assert question.text == "Which?\nA. x\nB. na"


def test_mmbench_in_chinese(table):
    text = read_questions(table, single_pred_prompt=True, lang="cn")[2].text
    assert text == "Is it?\nA. yes\nB. no\n请直接回答选项字母。"
    assert read_questions(table)[2].text == "Is it?\nA. yes\nB. no"


def test_an_image_larger_than_csvs_limit(tmp_path):
    path = tmp_path / "q.tsv"
    path.write_text(f"index\tquestion\tA\tB\timage\n1\tx\ty\tz\t{'QUJD' * 50_000}\n")
    assert read_questions(path)[0].image == b"ABC" * 50_000


HEAD = "index\tquestion\tA\tB\timage\n"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no question file .is empty"),
        ("hello", "no question file .begins with 'hello'"),
        ("[]", "holds no questions"),
        (HEAD, "the table has no rows"),
        ('{"question_id": 1, "text": "x"}\n{"question_id": 2, ', "q:2: broken JSON at column"),
        ('{"question_id": 1, "text": "x"}\n\n[3]\n', "q:3: not an object"),
        ('{"text": "x"}', 'q:1: "question_id" must be .*None'),
        ('{"question_id": true, "text": "x"}', 'q:1: "question_id" must be .*True'),
        ('{"question_id": 1}', 'q:1: "text" must be'),
        ('{"question_id": 1, "text": " "}', 'q:1: "text" must be'),
        ('{"question_id": 1, "text": "\\ud83d"}', "half a character"),
        ('{"question_id": 1, "text": "x", "image": 5}', 'q:1: "image" must be a path'),
        ('{"question_id": 1, "text": "<image> x"}', "q:1: 1 <image> in the text and no image"),
        ('{"id": 1, "conversations": []}', "q:1: a conversation; ScienceQA"),
        ('[{"id": 1}]', 'q: entry 0: needs "conversations"'),
        ('[{"id": 1, "conversations": [{"from": "gpt", "value": "x"}]}]', "q: entry 0: needs"),
        ('[\n{"id": 1,}]', "q:2: broken JSON"),
        ("index\tquestion\n1\tx\n", "q: the table has no column A, B;"),
        (HEAD + "1\tx\ty\tz\n", "q: index 1: the row has no image; is the file whole"),
        (HEAD + "1\tx\ty\tz\tQQ==\tv\n2\tx\ty\tz\tQQ==\tv\tw\n", "q: broken table .*line 3"),
        (HEAD + "\tx\ty\tz\tQQ==\n", "q: row 1: the index '' is no number"),
        (HEAD + "1\tx\ty\tz\tQQ==\n01\tx\ty\tz\tQQ==\n", "q: index 01 is there twice"),
        (HEAD + "1\tx\ty\tz\t\n", "q: index 1: the row has no image"),
        (HEAD + "1\tx\ty\tz\t5\n", "q: index 1: its image is that of row 5, which is not in"),
        (HEAD + "1\tx\ty\tz\t2\n2\tx\ty\tz\t1\n", "q: index 1: its image is .* row 1, which leads"),
        (HEAD + "1\tx\ty\tz\tQQ=!\n", "q: index 1: the image is no base64"),
        (HEAD + "1\tnan\ty\tz\tQQ==\n", 'q: index 1: "question" must be'),
        (HEAD + '1\t"x\ty\tz\tQQ==\n', "q: broken table"),
    ],
)
def test_broken_files(tmp_path, text, message):
    path = tmp_path / "q"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_questions(path)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8 text"):
        read_questions(path)
    with pytest.raises(UserError, match=r"--question-file .*cannot be read"):
        read_questions(tmp_path / "none.jsonl")


def test_lines_say_themselves_what_is_asked_for(jsonl):
    with pytest.raises(UserError, match=r"--single-pred-prompt: .*Leave it out"):
        read_questions(jsonl, single_pred_prompt=True)


def test_a_byte_order_mark_and_a_placeholder_in_the_text(tmp_path):
    path = tmp_path / "q.jsonl"
    row = {"question_id": 1, "image": "a.png", "text": "<image>\nWho?"}
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(row).encode())
    assert read_questions(path)[0].first_turn == "<image>\nWho?"


def test_one_id_and_text_with_two_images(tmp_path):
    path = tmp_path / "q.jsonl"
    rows = [{"question_id": 1, "image": name, "text": "Who?"} for name in ("a.png", "b.png")]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(
        UserError, match=r"q.jsonl:2: question 1 has the id and text of .*q.jsonl:1"
    ):
        distinct(read_questions(path))
