"""GQA: exact match after LLaVA's conversion, binary and open as the official script has them."""

import json

import pytest

from llava_sea.errors import UserError
from llava_sea.eval.answers import Answer
from llava_sea.eval.scorers.vqa import convert_gqa, score_gqa


def question(answer, structural, semantic, balanced=True):
    return {
        "question": "Is it?",
        "answer": answer,
        "imageId": "n1",
        "isBalanced": balanced,
        "types": {"structural": structural, "semantic": semantic, "detailed": "x"},
    }


@pytest.fixture
def annotations(tmp_path):
    path = tmp_path / "testdev_balanced_questions.json"
    questions = {
        "201": question("yes", "verify", "attr"),
        "202": question("no", "logical", "obj"),
        "203": question("left", "choose", "rel"),
        "204": question("dining table", "query", "rel"),
        "205": question("red", "query", "attr"),
    }
    path.write_text(json.dumps(questions))
    return path


def test_by_hand(annotations):
    texts = {"205": "Red.", "201": "Yes", "202": "no, it isn't", 204: "the dining table"}
    score = score_gqa([Answer(key, "q", text) for key, text in texts.items()], annotations)
    assert score.value == pytest.approx(40)  # 201 and 205; 203 has no answer
    assert score.parts == pytest.approx(
        {
            "binary": 100 / 3,
            "open": 50,
            "structural: verify": 100,
            "structural: logical": 0,
            "structural: choose": 0,
            "structural: query": 50,
            "semantic: attr": 100,
            "semantic: obj": 0,
            "semantic: rel": 0,
        }
    )
    assert (score.benchmark, score.split) == ("gqa", "testdev_balanced")
    assert (score.questions, score.missing) == (5, 1)


def test_conversion():
    assert convert_gqa("Red Car...") == "red car"
    assert convert_gqa("u.s. flag") == "u.s. flag"
    assert convert_gqa("yes. ") == "yes. "  # LLaVA takes the full stop off the very end only
    assert convert_gqa("") == ""


def test_what_is_refused(annotations, tmp_path):
    with pytest.raises(UserError, match=r"testdev_balanced_questions.json.*'7'"):
        score_gqa([Answer("7", "q", "yes")], annotations)
    with pytest.raises(UserError, match="201 has two answers"):
        score_gqa([Answer("201", "q", "yes"), Answer(201, "q", "no")], annotations)
    path = tmp_path / "other.json"
    for content, message in [
        ("{}", "no questions"),
        ("[]", "the questions by id"),
        ("{", "broken JSON"),
        ('{"1": {"answer": "yes"}}', "question 1.*types"),
        (json.dumps({"9": question("a", "query", "rel", balanced=False)}), "'9'.*balanced"),
    ]:
        path.write_text(content)
        with pytest.raises(UserError, match=f"other.json.*{message}"):
            score_gqa([], path)
