"""Multiple choice from a question file of one's own, by hand."""

import json

import pytest

from llava_sea.errors import UserError
from llava_sea.eval.answers import Answer
from llava_sea.eval.letters import main, score

ASK = "Answer with the option's letter from the given choices directly."
DOGS = ["pug", "borzoi", "beagle", "saluki"]
TEXT = "\n".join(["Which breed is it?", *(f"{c}. {d}" for c, d in zip("ABCD", DOGS, strict=True))])


@pytest.fixture
def questions(tmp_path):
    rows = [
        {"question_id": n, "image": f"{n}.jpg", "text": f"{TEXT}\n{ASK}", "answer": letter}
        for n, letter in enumerate("ABCDB")
    ]
    for row in rows[:2]:
        row["category"] = "small"
    return write(tmp_path, rows)


def write(folder, rows):
    path = folder / "dogs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def given(*texts):
    return [Answer(n, "", text) for n, text in enumerate(texts) if text is not None]


def test_letters_are_counted(questions):
    # right by its letter; by a letter with its text; by the text; wrong; not answered.
    found = score(given("A", "B. borzoi", "Beagle.", "C", None), questions)
    assert found.value == 60 and found.questions == 5 and found.missing == 1
    assert found.parts == {"unread answers": 0, "category: small": 100}
    assert found.benchmark == "dogs" and found.metric == "accuracy"


def test_what_is_no_letter_is_wrong(questions):
    found = score(given("", "a dog", "E", "A or D", "(B)"), questions)
    assert found.value == 20 and found.missing == 0
    assert found.parts["unread answers"] == 80 and found.parts["category: small"] == 0
    with pytest.raises(UserError, match="does not have"):
        score([Answer(9, "", "A")], questions)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "E"}, r"dogs.jsonl:2: its \"answer\" is 'E' and must be one of A, B, C, D"),
        ({"answer": 1}, r"is 1 and must be"),
        ({"answer": ["A"]}, r"is \['A'\] and must be"),
        ({"text": "Which breed?"}, r"dogs.jsonl:2: its \"text\" has 0 options"),
        ({"question_id": 0}, r"dogs.jsonl:2: question_id 0 is there twice"),
    ],
)
def test_errors_name_the_line(tmp_path, changes, message):
    row = {"question_id": 0, "text": TEXT, "answer": "A"}
    path = write(tmp_path, [row, row | {"question_id": 1} | changes])
    with pytest.raises(UserError, match=message):
        score([], path)


def test_the_command(questions, tmp_path, capsys):
    answers = tmp_path / "answers.jsonl"
    rows = [
        {"question_id": n, "prompt": f"{n}?\n{ASK}", "text": t}
        for n, t in enumerate(["A", "A", "?"])
    ]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["--answers", str(answers), "--questions", str(questions)])
    *lines, protocol = capsys.readouterr().out.splitlines()
    assert lines == [
        "dogs: 20.0 % of 5 questions right, 2 without an answer",
        "  unread answers: 20.0 %",
        "  category: small: 50.0 %",
    ]
    assert protocol.startswith(f"Protocol: {questions}: accuracy, 5 questions. prompt: each")
    assert f'ends "{ASK}" (' in protocol and "missing answers: wrong" in protocol
    with pytest.raises(UserError, match="--answers"):
        main(["--answers", str(tmp_path / "no"), "--questions", str(questions)])
