"""VQAv2, VizWiz, TextVQA and GQA: marks worked out by hand, the joins, what is refused."""

import json

import pytest

from llava_sea.errors import UserError
from llava_sea.eval.answers import Answer
from llava_sea.eval.scorers.vqa import (
    convert_gqa,
    score_gqa,
    score_textvqa,
    score_vizwiz,
    score_vqav2,
    vqa_accuracy,
)

INSTRUCTION = "\nAnswer the question using a single word or phrase."
IMAGE = "0054c91397f2fe05"


@pytest.mark.parametrize(
    ("equal", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1), (10, 1)]
)
def test_accuracy_by_the_number_of_equal_answers(equal, expected):
    humans = ["red"] * equal + [f"other {n}" for n in range(10 - equal)]
    assert vqa_accuracy("red", humans) == expected
    # The definition, word for word.
    each = [
        min(1, sum(h == "red" for h in humans[:left] + humans[left + 1 :]) / 3)
        for left in range(10)
    ]
    assert vqa_accuracy("red", humans) == pytest.approx(sum(each) / 10)


def asked(question_id, text, question="What?", ocr=None):
    tokens = "" if ocr is None else f"\nReference OCR token: {ocr}"
    return Answer(question_id, question + tokens + INSTRUCTION, text)


def write(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def humans(*counted):
    """Ten answers in the official form, from (answer, how often)."""
    texts = [text for text, count in counted for _ in range(count)]
    return [{"answer": text, "answer_confidence": "yes"} for text in texts]


def annotation(question_id, kind, *counted):
    return {"question_id": question_id, "answer_type": kind, "answers": humans(*counted)}


@pytest.fixture
def vqav2_file(tmp_path):
    rows = [
        annotation(1000, "yes/no", ("yes", 10)),
        annotation(1001, "number", ("2", 3), ("3", 2), ("4", 5)),
        annotation(1002, "other", ("the red car", 2), ("Red car", 1), ("blue", 7)),
        annotation(1003, "other", ("grass", 1), ("lawn", 9)),
    ]
    return write(tmp_path / "v2_mscoco_val2014_annotations.json", {"annotations": rows})


def test_vqav2_by_hand(vqav2_file):
    given = [asked(1002, "A red car."), asked(1000, "Yes"), asked("1001", "two")]
    score = score_vqav2(given, vqav2_file)
    # yes: unanimous, 1. "two" is "2": three of ten, 0.9. "red car" thrice once normalised: 0.9.
    assert score.parts == pytest.approx({"yes/no": 100, "number": 90, "other": 45})
    assert score.value == pytest.approx(100 * (1 + 0.9 + 0.9 + 0) / 4)
    assert (score.benchmark, score.split) == ("vqav2", "val2014")
    assert (score.questions, score.missing) == (4, 1)


def test_vqav2_unanimous_answers_are_compared_as_they_are(tmp_path):
    rows = [
        annotation(1, "other", (" two\n", 10)),
        annotation(2, "other", ("two", 9), ("2", 1)),
        annotation(3, "other", (" blue\tsky ", 10)),
    ]
    annotations = write(tmp_path / "a.json", {"annotations": rows})
    # The answer "two" becomes "2"; the ten "two" of question 1 stay, those of question 2 don't.
    score = score_vqav2([asked(1, "two"), asked(2, "two"), asked(3, "Blue sky")], annotations)
    assert score.value == pytest.approx(100 * 2 / 3)


def test_vqav2_refuses_what_does_not_belong_together(vqav2_file, tmp_path):
    with pytest.raises(UserError, match=r"v2_mscoco_val2014_annotations.json.*'7'.*split"):
        score_vqav2([asked(1000, "yes"), asked(7, "no")], vqav2_file)
    with pytest.raises(UserError, match="'1', '2', '3' and 2 more"):
        score_vqav2([asked(number, "no") for number in range(1, 6)], vqav2_file)
    with pytest.raises(UserError, match="1000 has two answers"):
        score_vqav2([asked(1000, "yes"), asked("1000", "no")], vqav2_file)
    rows = json.loads(vqav2_file.read_text())["annotations"]
    rows[0]["answers"].pop()
    with pytest.raises(UserError, match=r"annotation 1.*9 human answers, not 10"):
        score_vqav2([], write(tmp_path / "nine.json", {"annotations": rows}))


@pytest.mark.parametrize("score", [score_vqav2, score_textvqa, score_gqa])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "broken JSON"),
        ("[]", "the (list|questions)"),
        ('{"annotations": [], "data": []}', "no questions|question annotations"),
        ('{"annotations": [{"question_id": 1}], "data": [{"image_id": 1}]}', "not as"),
    ],
)
def test_annotations_that_are_none(score, content, message, tmp_path):
    path = tmp_path / "annotations.json"
    path.write_text(content)
    with pytest.raises(UserError, match=f"annotations.json.*({message})"):
        score([], path)


@pytest.fixture
def vizwiz_files(tmp_path):
    def row(number, *annotated):
        return {"image": f"VizWiz_val_{number:08}.jpg", **annotation(None, *annotated)}

    annotations = [
        row(0, "unanswerable", ("unanswerable", 6), ("soup", 2), ("can", 2)),
        row(1, "other", ("chicken soup", 2), ("unsuitable", 8)),
        row(2, "yes/no", ("yes", 1), ("no", 9)),
    ]
    # Ids are not the images' numbers, and the order is another.
    questions = [
        {"question_id": 10 + n, "image": f"VizWiz_val_{n:08}.jpg", "text": "q"} for n in (2, 0, 1)
    ]
    questions_file = tmp_path / "llava_val.jsonl"
    questions_file.write_text("".join(json.dumps(row) + "\n" for row in questions))
    return write(tmp_path / "val.json", annotations), questions_file


def test_vizwiz_by_hand(vizwiz_files):
    answers = [asked(10, "Unanswerable"), asked(11, "The chicken soup."), asked(12, "Yes")]
    score = score_vizwiz(answers, *vizwiz_files)
    assert score.parts == pytest.approx({"unanswerable": 100, "other": 60, "yes/no": 30})
    assert score.value == pytest.approx(190 / 3)
    assert (score.questions, score.missing) == (3, 0)
    score = score_vizwiz(answers[:1], *vizwiz_files)
    assert (score.missing, score.value) == (2, pytest.approx(100 / 3))


def test_vizwiz_compares_human_answers_as_published(tmp_path):
    row = {"image": "a.jpg", **annotation(None, "other", ("two", 5), ("2", 2), ("Two", 3))}
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"question_id": 1, "image": "a.jpg"}\n')
    # "two" becomes "2", which two humans said.
    score = score_vizwiz([asked(1, "two")], write(tmp_path / "val.json", [row]), questions)
    assert score.value == pytest.approx(60)


def test_vizwiz_refuses_what_does_not_belong_together(vizwiz_files, tmp_path):
    annotations, questions = vizwiz_files
    with pytest.raises(UserError, match=r"llava_val.jsonl.*'99'"):
        score_vizwiz([asked(99, "soup")], annotations, questions)
    fewer = write(tmp_path / "fewer.json", json.loads(annotations.read_text())[1:])
    with pytest.raises(UserError, match=r"fewer.json.*VizWiz_val_00000000.jpg"):
        score_vizwiz([asked(10, "soup")], fewer, questions)
    with pytest.raises(UserError, match="no questions"):
        score_vizwiz([], write(tmp_path / "empty.json", []), questions)
    again = tmp_path / "again.jsonl"
    again.write_text('{"question_id": 1, "image": "a.jpg"}\n{"question_id": 2, "image": "a.jpg"}\n')
    with pytest.raises(UserError, match=r"again.jsonl.*'a.jpg' more than once"):
        score_vizwiz([], annotations, again)
    again.write_text('{"question_id": 1}\n')
    with pytest.raises(UserError, match=r"again.jsonl: question_id 1.*image"):
        score_vizwiz([], annotations, again)


def textvqa(question, *counted, image=IMAGE):
    answers = [answer["answer"] for answer in humans(*counted)]
    return {"image_id": image, "question": question, "answers": answers}


@pytest.fixture
def textvqa_file(tmp_path):
    rows = [
        textvqa("What brand is it?", ("Nokia", 2), ("nokia", 1), ("phone", 7)),
        textvqa("What Time is it", ("10:10", 8), ("ten", 2)),
        textvqa("whose?", ("the man's", 5), ("a man's", 5)),
    ]
    return write(tmp_path / "TextVQA_0.5.1_val.json", {"data": rows})


def test_textvqa_joins_by_image_and_question(textvqa_file):
    answers = [
        asked(IMAGE, "10", "What time is it", "10:10, NOKIA"),
        asked(IMAGE, "man's", "Whose?", ""),
        asked(IMAGE, "NOKIA.", "What brand is it?", "a\nb"),
    ]
    score = score_textvqa(answers, textvqa_file)
    # "ten" is "10" and twice there: 0.6; "man 's" ten times: 1; "nokia" three times: 0.9.
    assert score.value == pytest.approx(100 * (0.6 + 1 + 0.9) / 3)
    assert score.protocol["OCR tokens"] == "yes"
    assert (score.questions, score.missing, score.parts) == (3, 0, {})


def test_textvqa_without_ocr_tokens_and_with_some(textvqa_file):
    plain = [asked(IMAGE, "phone", "What brand is it?")]
    score = score_textvqa(plain, textvqa_file)
    assert (score.protocol["OCR tokens"], score.missing) == ("no", 2)
    assert score.value == pytest.approx(100 / 3)
    mixed = score_textvqa([*plain, asked(IMAGE, "10:10", "what time is it", "x")], textvqa_file)
    assert mixed.protocol["OCR tokens"] == "in 1 of 2 prompts"
    assert not mixed.comparable(score)


def test_textvqa_a_question_asked_twice_about_an_image(tmp_path):
    twins = [("What?", ("red", 10)), ("what?", ("red", 2), ("blue", 8))]
    rows = [textvqa(*twin, image="x") for twin in twins]
    annotations = write(tmp_path / "twice.json", {"data": rows})
    score = score_textvqa([asked("x", "red"), asked("x", "red", "what?")], annotations)
    assert score.value == pytest.approx((100 + 60) / 2)
    assert (score.questions, score.missing) == (2, 0)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([asked(IMAGE, "red", "What colour?")], rf"{IMAGE} what colour"),
        ([asked(IMAGE, "mine", "Whose?"), asked(IMAGE, "his", "whose?")], "has two answers"),
    ],
)
def test_textvqa_refuses_what_does_not_belong_together(textvqa_file, answers, message):
    with pytest.raises(UserError, match=message):
        score_textvqa(answers, textvqa_file)


def gqa(answer, structural, semantic, balanced=True):
    types = {"structural": structural, "semantic": semantic, "detailed": "x"}
    return {"question": "Is it?", "answer": answer, "isBalanced": balanced, "types": types}


@pytest.fixture
def gqa_file(tmp_path):
    questions = {
        "201": gqa("yes", "verify", "attr"),
        "202": gqa("no", "logical", "obj"),
        "203": gqa("left", "choose", "rel"),
        "204": gqa("dining table", "query", "rel"),
        "205": gqa("red", "query", "attr"),
    }
    return write(tmp_path / "testdev_balanced_questions.json", questions)


def test_gqa_by_hand(gqa_file):
    texts = {"205": "Red.", "201": "Yes", "202": "no, it isn't", 204: "the dining table"}
    score = score_gqa([Answer(key, "q", text) for key, text in texts.items()], gqa_file)
    assert score.value == pytest.approx(40)  # 201 and 205; 203 has no answer
    kinds = {"binary": 100 / 3, "open": 50, "structural: verify": 100, "structural: logical": 0}
    kinds |= {"structural: choose": 0, "structural: query": 50}
    kinds |= {"semantic: attr": 100, "semantic: obj": 0, "semantic: rel": 0}
    assert score.parts == pytest.approx(kinds)
    assert (score.benchmark, score.split) == ("gqa", "testdev_balanced")
    assert (score.questions, score.missing) == (5, 1)


def test_gqas_conversion():
    assert convert_gqa("Red Car...") == "red car"
    assert convert_gqa("u.s. flag") == "u.s. flag"
    assert convert_gqa("yes. ") == "yes. "  # LLaVA takes the full stop off the very end only


def test_gqa_refuses_what_does_not_belong_together(gqa_file, tmp_path):
    with pytest.raises(UserError, match=r"testdev_balanced_questions.json.*'7'"):
        score_gqa([Answer("7", "q", "yes")], gqa_file)
    other = write(tmp_path / "other.json", {"9": gqa("a", "query", "rel", balanced=False)})
    with pytest.raises(UserError, match=r"other.json.*'9'.*balanced"):
        score_gqa([], other)


def test_no_answers_at_all(textvqa_file, vqav2_file, gqa_file):
    files = {score_textvqa: textvqa_file, score_vqav2: vqav2_file, score_gqa: gqa_file}
    for score in (score([], path) for score, path in files.items()):
        assert score.value == 0
        assert score.missing == score.questions
