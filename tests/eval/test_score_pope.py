import json

import pytest

from llava_sea.errors import UserError
from llava_sea.eval.answers import Answer
from llava_sea.eval.scorers.pope import SPLITS, says_yes, score

SUFFIX = "\nAnswer the question using a single word or phrase."
FIRST_ID = {"adversarial": 1, "random": 10000001, "popular": 20000001}  # LLaVA's numbers
ASKED = [("a.jpg", "a dog", "yes"), ("a.jpg", "a cat", "no"), ("b.jpg", "a dog", "no")]
ASKED += [("b.jpg", "an apple", "yes")]


def bare(thing, word="image"):
    return f"Is there {thing} in the {word}?"


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def label_rows(asked=ASKED):
    return [
        {"question_id": number, "image": image, "text": bare(thing), "label": label}
        for number, (image, thing, label) in enumerate(asked, start=1)
    ]


def question_rows(asked=ASKED, first_id=FIRST_ID):
    return [
        {
            "question_id": first_id[name] + number,
            "image": image,
            "text": bare(thing, "imange" if thing.startswith("an ") else "image") + SUFFIX,
            "category": name,
        }
        for name in FIRST_ID
        for number, (image, thing, _) in enumerate(asked)
    ]


@pytest.fixture
def files(tmp_path):
    questions, labels = tmp_path / "llava_pope_test.jsonl", tmp_path / "coco"
    labels.mkdir()
    write_lines(questions, question_rows())
    for name in SPLITS:
        # Neither order nor number is that of the questions: label files of another revision.
        rows = label_rows(ASKED[::-1])
        write_lines(labels / f"coco_pope_{name}.json", rows)
    return questions, labels


def answers(*texts, prompt=""):
    ids = [FIRST_ID[name] + number for name in FIRST_ID for number in range(len(ASKED))]
    return [
        Answer(key, prompt, text) for key, text in zip(ids, texts, strict=True) if text is not None
    ]


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("Yes", True),
        ("No", False),
        ("no", False),
        ("No, there is not", False),
        ("Yes, there is", True),
        ("It is not there", False),
        ("Not sure", True),  # LLaVA knows No, no and not
        ("NO", True),
        ("Yes. No dog is there", True),  # the first sentence counts
        ("There is none", True),
        ("no\nsure", True),  # split at spaces alone
        ("", True),
    ],
)
def test_reads_answers_as_llava(text, yes):
    assert says_yes(text) is yes


def test_worked_case(files):
    given = ["Yes", "Yes", "No", "No"]  # adversarial: 1 true, 1 false yes; 1 true, 1 false no
    given += ["No", "No", "No", "No"]  # random: never yes, every fraction but accuracy is 0
    given += ["Yes", "No", None, "Yes"]  # popular: the missing one counts as a false yes
    result = score(answers(*given), *files)
    assert result.missing == 1
    numbers = {
        name: [
            result.parts[f"{name} {what}"]
            for what in ("accuracy", "precision", "recall", "F1", "yes ratio")
        ]
        for name in SPLITS
    }
    assert numbers["adversarial"] == [50.0, 50.0, 50.0, 50.0, 50.0]
    assert numbers["random"] == [50.0, 0.0, 0.0, 0.0, 0.0]
    assert numbers["popular"] == pytest.approx([75.0, 200 / 3, 100.0, 80.0, 200 / 3])
    assert result.value == pytest.approx((50 + 0 + 80) / 3)
    assert result.metric == "mean F1 of the splits"


def test_fewer_questions_than_labels_are_said_in_the_protocol(files):
    questions, labels = files
    rows = [row for row in question_rows() if row["question_id"] != 10000004]
    write_lines(questions, rows)
    result = score([], questions, labels)
    assert result.protocol["questions"] == "adversarial 4, popular 4, random 3"
    assert result.questions == 11


def test_a_question_without_a_label_is_named(files):
    questions, labels = files
    write_lines(labels / "coco_pope_random.json", label_rows(ASKED[:3]))
    with pytest.raises(UserError, match=r"test.jsonl:8: .*coco_pope_random.json has no label"):
        score([], questions, labels)


def test_wrong_lines_are_named(files):
    questions, labels = files
    with pytest.raises(UserError, match="question_id '10002911'"):
        score([Answer(10002911, "", "Yes")], *files)  # of another revision
    path = labels / "coco_pope_popular.json"
    write_lines(path, [*label_rows(), {"image": "a.jpg", "text": "Is it?", "label": "maybe"}])
    with pytest.raises(UserError, match=r"coco_pope_popular.json:5: label 'maybe'"):
        score([], questions, labels)
    write_lines(path, [*label_rows(), {"image": "a.jpg", "text": bare("a dog"), "label": "no"}])
    with pytest.raises(UserError, match=r"coco_pope_popular.json:5: .*both yes and no"):
        score([], questions, labels)
    write_lines(path, label_rows())
    questions.write_text('{"question_id": 1}\n')
    with pytest.raises(UserError, match=r"test.jsonl:1: not a JSON object with question_id"):
        score([], questions, labels)
    path.unlink()
    with pytest.raises(UserError, match=r"coco_pope_popular.json: cannot be read"):
        score([], questions, labels)
