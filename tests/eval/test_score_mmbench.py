import csv
import time

import pytest

from llava_sea.errors import UserError
from llava_sea.eval.answers import Answer
from llava_sea.eval.scorers.mmbench import read_letter, score

HEADER = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image"]
HEADER += ["source", "l2-category", "comment", "split"]
IMAGE = "iVBOR" * 40_000  # 200,000 characters: past the limit of the csv module


def row(index, options, answer, category="colour", l2="perception"):
    cells = [*options, "", "", ""][:4]
    return [index, "Which?", "", *cells, answer, category, IMAGE, "web", l2, "", "dev"]


# Question 7 has two options, 8 three: as many rows each.
ROWS = [
    row(7, ["red", "blue"], "A"),
    row(1000007, ["blue", "red"], "B"),
    row(8, ["left", "right", "above"], "C", "place"),
    row(1000008, ["right", "above", "left"], "B", "place"),
    row(2000008, ["above", "left", "right"], "A", "place"),
]
RIGHT = {7: "A", 1000007: "B", 8: "C", 1000008: "B", 2000008: "A"}


def write_table(path, rows, header=HEADER):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([header, *rows])
    return path


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path / "mmbench_dev.tsv", ROWS)


def answers(texts):
    return [Answer(key, "", text) for key, text in texts.items()]


# By VLMEvalKit's rules, by hand. 38 characters are twice the options' length.
OPTIONS = {"A": "a red car", "B": "blue car", "C": "C3"}
READINGS = [
    # One letter as a word, whatever stands around it, among the last four words.
    ("A", "A"),
    ("A.", "A"),
    ("(A)", "A"),
    ("**B**", "B"),
    ("Option B", "B"),
    (r"$\boxed{\text{B}}$", "B"),
    ("B. anything", "B"),
    ("Answer: (C)", "C"),
    ("I think that it must be B", "B"),
    ("B is the one", "B"),
    ("B is the right one", None),  # five words
    ("B is right, I mean B", None),  # the first B counts
    ("A green car", "A"),  # an article is a letter
    ("D, so A", "A"),  # D is not shown
    # More letters, or a letter too early, and "answer is".
    ("The answer is **B**, for the car in it is as blue as can be", "B"),
    ("The correct Answer  is\nC: it is the one that fits the image best", "C"),
    ("The answer is A or B: the answer is B.", "A"),
    ("The answer is B, C", "B"),
    ("The answer is b.", "B"),
    ("The answer is (B), for the car in it is as blue as can be", None),
    ("The answer is D, for the car in it is as red as can be", None),
    # The text of one option, in any case, within a short answer.
    ("Blue car", "B"),
    ("A red car", "A"),
    ("The answer is blue car", "B"),
    ("the answer is a red car", "A"),
    ("the blue car" + "." * 26, "B"),
    ("the blue car" + "." * 27, None),  # 39 characters
    ("a red car, a blue car", None),
    ("scar, then c3po", "C"),
    # Nothing.
    ("D", None),  # no such option
    ("D. nothing", None),
    ("AB", None),
    ("(A) (B)", None),
    ("B. vitamin C", None),
    ("B/C", None),
    ("b", None),
    (" \n", None),
    ("Z", None),
    ("Z: blue car", None),  # none of them, it says
    ("Cannot determine the answer, B", None),
    ("I'm sorry, but without the image provided I can say B", None),
]


@pytest.mark.parametrize(
    ("text", "letter", "options"),
    [
        *((text, letter, OPTIONS) for text, letter in READINGS),
        # A letter after "answer is" must be a word.
        ("The answer is blue", "A", {"A": "blue", "B": "dog"}),  # not B, as in VLMEvalKit
        ("The answer is a dog", "B", {"A": "blue", "B": "dog"}),
        ("The answer is a", "A", {"A": "blue", "B": "dog"}),
        # Options that hold each other.
        ("car", "A", {"A": "car", "B": "Car."}),
        ("car.", None, {"A": "car", "B": "Car."}),
        ("A", "A", {"A": "B", "B": "A"}),  # a letter was asked for
    ],
)
def test_reads_letters(text, letter, options):
    assert read_letter(text, options) == letter


@pytest.mark.parametrize("form", ["{}", "({})", "**{}**", "Option {}", "The answer is {}"])
def test_an_option_that_is_not_shown_is_never_read(form):
    assert read_letter(form.format("C"), {"A": "red", "B": "blue"}) is None
    assert read_letter(form.format("C"), {"A": "red", "B": "blue", "C": "grey"}) == "C"


@pytest.mark.parametrize("blanks", ["", " " * 300_000, "*" * 300_000, "!" * 300_000])
def test_long_answers_are_read_in_no_time(blanks):
    start = time.process_time()
    for text in ("A, B, ", "answer is ", "answer is *", "answer is a !", "is ", "Z. ", "* "):
        for answer in (text * 50_000, text + blanks, text * 100 + blanks + "dog", blanks + text):
            read_letter(answer, {"A": "aa", "B": "ab"})
    assert time.process_time() - start < 60  # hours, where a pattern is tried at every place


def test_one_wrong_rotation_loses_the_question(table):
    result = score(answers({**RIGHT, 1000008: "A"}), table)
    assert result.value == 50.0
    assert result.parts == {
        "vanilla": 80.0,
        "unread answers": 0.0,
        "l2-category: perception": 50.0,
        "category: colour": 100.0,
        "category: place": 0.0,
    }
    assert (result.protocol["rows"], result.protocol["rotations"]) == ("5", "complete")
    assert "VLMEvalKit" in result.protocol["matching"]


def test_a_missing_rotation_loses_the_question_and_is_counted(table):
    texts = {str(key): text for key, text in RIGHT.items() if key != 1000007}  # ids as texts
    result = score(answers(texts), table)
    assert (result.value, result.questions, result.missing) == (50.0, 2, 1)


def test_a_table_that_lacks_a_rotation_is_told_by_the_protocol(tmp_path):
    path = write_table(tmp_path / "t.tsv", [cells for cells in ROWS if str(cells[0]) != "1000007"])
    texts = {key: text for key, text in RIGHT.items() if key != 1000007}
    result = score(answers(texts), path)
    assert result.protocol["rotations"] == "1 questions have fewer than options, the first is 7"


def test_a_right_option_that_is_not_shown_is_wrong_and_counted(tmp_path):
    path = tmp_path / "t.tsv"
    head = "index\tquestion\tA\tB\tC\tanswer\n"
    path.write_text(f"{head}1\tq\tx\ty\tNA\tC\n1000001\tq\ty\tx\tw\tB\n")
    result = score(answers({1: "C", 1000001: "B"}), path)
    assert (result.value, result.parts["vanilla"]) == (0.0, 50.0)
    assert result.protocol["rows whose right option is not shown"] == "1, wrong"


@pytest.mark.parametrize(
    ("rows", "given", "message"),
    [
        ([*ROWS, ["3", "Which?"]], {}, r"t.tsv: index 3 has no answer.* only the OpenCompass"),
        ([*ROWS, row(9, ["a", "b"], "AB")], {}, "index 9 has the answer 'AB'"),
        ([ROWS[0], ROWS[2]], {}, "no rotated rows"),
        (ROWS, {**RIGHT, 9: "A"}, "question_id '9'"),
    ],
)
def test_what_cannot_be_scored_is_named(tmp_path, rows, given, message):
    with pytest.raises(UserError, match=message):
        score(answers(given), write_table(tmp_path / "t.tsv", rows))


@pytest.mark.parametrize("absent", ["NA", "None", "none", "nan", "NaN"])
def test_absent_options_are_llavas(tmp_path, absent):
    path = tmp_path / "t.tsv"
    head = "index\tquestion\tA\tB\tC\tD\tanswer\tcategory\n"
    rows = f"1\tq\tx\ty\t{absent}\tz\tA\t{absent}\n1000001\tq\ty\tx\t{absent}\tz\tB\tplace\n"
    path.write_text(head + rows)
    result = score(answers({1: "A", 1000001: "B"}), path)
    assert (result.value, result.protocol["rotations"]) == (100.0, "complete")
    assert not any(name.startswith("category") for name in result.parts)
    assert score(answers({1: "z"}), path).parts["unread answers"] == 50.0  # D is not shown
