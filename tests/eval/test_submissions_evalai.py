"""Submission files: ids and order from the question file, LLaVA's keys, whole or not there."""

import json

import pytest

from llava_sea.errors import UserError
from llava_sea.eval.answers import Answer
from llava_sea.eval.submissions_evalai import GQA_FILE, write_gqa, write_vizwiz, write_vqav2


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
    assert write_vqav2(answers, questions, path) == 1
    assert json.loads(path.read_text()) == [
        {"question_id": 3, "answer": ""},
        {"question_id": 1, "answer": "2 men"},
        {"question_id": 2, "answer": "it 's red"},
    ]
    assert [each.name for each in path.parent.iterdir()] == ["ckpt.json"]


def test_vizwiz_has_pictures(tmp_path):
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


@pytest.mark.parametrize("write", [write_vqav2, write_vizwiz, write_gqa])
def test_question_files_that_are_none(write, tmp_path):
    questions = tmp_path / "questions.jsonl"
    for content, message in [
        ("\n", "no questions"),
        ('{"question_id": 1, "image": "a"}\n{"question_id": "1", "image": "b"}\n', "'1' more than"),
        ('\n{"image": "a"}\n', "jsonl:2: not a JSON object with question_id"),
        ("[1]\n", "jsonl:1: not a JSON object with question_id"),
        ("{\n", "jsonl:1: not a JSON object with question_id"),
    ]:
        questions.write_text(content)
        with pytest.raises(UserError, match=message):
            write([], questions, tmp_path / "up.json")
    assert not (tmp_path / "up.json").exists()
