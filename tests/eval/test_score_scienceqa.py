import json

import pytest

from llava_sea.errors import UserError
from llava_sea.eval.answers import Answer
from llava_sea.eval.scorers.scienceqa import read_letter, score


def problem(answer, *, image="image.png", subject="natural science", options=3, split="test"):
    return {
        "question": "Which?",
        "choices": ["one", "two", "three", "four", "five"][:options],
        "answer": answer,
        "image": image,
        "subject": subject,
        "split": split,
    }


PROBLEMS = {
    "4": problem(0),
    "5": problem(1, subject="social science"),
    "11": problem(2),
    "12": problem(1, options=2, subject="social science"),
    "20": problem(0, image=None, subject="language science"),
    "21": problem(1, image=None, subject="language science"),
    "90": problem(0, split="train"),
}
SPLITS = {"train": ["90"], "test": ["4", "5", "11", "12", "20", "21"]}


@pytest.fixture
def files(tmp_path):
    paths = tmp_path / "problems.json", tmp_path / "pid_splits.json"
    paths[0].write_text(json.dumps(PROBLEMS))
    paths[1].write_text(json.dumps(SPLITS))
    return paths


def answers(texts):
    return [Answer(key, "", text) for key, text in texts.items()]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        ("E", "E"),
        ("B. two", "B"),
        ("The answer is B.", "B"),
        ("So it is. The answer is C. BECAUSE: so", "C"),
        ("A.", None),  # as in LLaVA: shorter than "A. "
        ("(A)", None),
        ("The answer is B", None),  # the pattern needs one more character
        ("The answer is A. The answer is B.", None),  # a tie
        ("a", None),
        ("AB", None),
        ("", None),
        ("A ", None),
        ("F", None),
    ],
)
def test_reads_letters_as_llava(text, letter):
    assert read_letter(text) == letter


def test_worked_case(files):
    # Right: 4, 20. Wrong: 5 (letter of another), 11 (unread), 21. Missing: 12.
    given = {"4": "A", "5": "A. one", "11": "(C)", "20": "The answer is A.", "21": "A"}
    result = score(answers(given), *files)
    assert (result.value, result.questions, result.missing) == (25.0, 4, 1)
    assert result.metric == "IMG-accuracy"
    assert result.parts == {
        "all": pytest.approx(100 * 2 / 6),
        "subject: natural science": 50.0,
        "subject: social science": 0.0,
        "unread answers": 25.0,
    }


def test_ids_may_be_numbers_and_images_alone_may_be_asked(files):
    result = score([Answer(4, "", "A"), Answer(5, "", "B"), Answer(12, "", "D")], *files)
    assert result.value == 50.0  # 12 has no option D
    assert "all" not in result.parts


def test_what_does_not_belong_together_is_refused(files):
    problems, splits = files
    with pytest.raises(UserError, match=r"pid_splits.json: .*question_id '90'"):
        score(answers({"90": "A"}), *files)  # of another split
    problems.write_text(json.dumps({**PROBLEMS, "5": problem(7)}))
    with pytest.raises(UserError, match=r"problems.json: problem 5: .*choices"):
        score([], *files)
    splits.unlink()
    with pytest.raises(UserError, match=r"^\S*pid_splits.json: cannot be read"):
        score([], *files)
