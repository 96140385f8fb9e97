import csv
import time

import pytest

from llava_sea.errors import UserError
from llava_sea.eval.answers import Answer
from llava_sea.eval.scorers.mmbench import read_letter, read_table, score

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


# By VLMEvalKit's rules, by hand. Options: A "a red car", B "blue car", C "C3"; 38 characters are
# twice their length.
READINGS = [
    # One letter as a word, whatever stands around it, among the last four words.
    ("A", "A"),
    (" B\n", "B"),
    ("A.", "A"),
    ("(A)", "A"),
    ("[B]", "B"),
    ("B!", "B"),
    ("**B**", "B"),
    ("# B", "B"),
    ("Option B", "B"),
    ("B: it is", "B"),
    (r"\boxed{B}", "B"),
    (r"$\boxed{\text{B}}$", "B"),
    ("(B) blue car", "B"),
    ("B. anything", "B"),
    ("B, the blue car", "B"),
    ("Answer: (C)", "C"),
    ("the answer is: A", "A"),
    ("I think that it must be B", "B"),
    ("B B B", "B"),
    ("B is the one", "B"),
    ("B is the right one", None),  # five words
    ("B is right, I mean B", None),  # the first B counts
    ("A green car", "A"),  # an article is a letter
    ("D, so A", "A"),  # D is not shown
    # More letters, or a letter too early, and "answer is".
    ("The answer is B, for the car in it is as blue as can be", "B"),
    ("The answer is **B**, for the car in it is as blue as can be", "B"),
    ("The correct Answer  is\nC: it is the one that fits the image best", "C"),
    ("The answer is A or B: the answer is B.", "A"),
    ("The answer is A. No, the answer is B.", "A"),
    ("The answer is B, C", "B"),
    ("The answer is b.", "B"),
    ("A or B? My answer is c", "C"),
    ("The answer is (B), for the car in it is as blue as can be", None),
    ("The answer is D, for the car in it is as red as can be", None),
    # The text of one option, in any case, within a short answer.
    ("Blue car", "B"),
    ("a red car.", "A"),
    ("A red car", "A"),
    ("The answer is blue car", "B"),
    ("the answer is a red car", "A"),
    ("It is the blue car, I would say", "B"),
    ("the blue car" + "." * 26, "B"),
    ("the blue car" + "." * 27, None),  # 39 characters
    ("a red car, a blue car", None),
    ("scar, then c3po", "C"),
    # Nothing.
    ("D", None),  # no such option
    ("D.", None),
    ("(D)", None),
    ("The answer is D", None),
    ("D. nothing", None),
    ("AB", None),
    ("B, C", None),
    ("A, B or C.", None),
    ("(A) (B)", None),
    ("B and C", None),
    ("B. vitamin C", None),
    ("`B`", None),
    ("B/C", None),
    ("b", None),
    ("", None),
    (" \n", None),
    ("twice", None),
    ("Z", None),
    ("Z: blue car", None),  # none of them, it says
    ("Cannot determine the answer, B", None),
    ("I'm sorry, but without the image provided I can say B", None),
]


@pytest.mark.parametrize(("text", "letter"), READINGS)
def test_reads_letters(text, letter):
    assert read_letter(text, {"A": "a red car", "B": "blue car", "C": "C3"}) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is blue", "A"),  # not B, as in VLMEvalKit
        ("I looked at all of it, and so the answer is: blue!", "A"),
        ("The answer is a dog", "B"),  # not A
        ("The answer is a", "A"),
        ("The answer is blue, for all that I can see in it", None),
    ],
)
def test_a_letter_after_answer_is_must_be_a_word(text, letter):
    assert read_letter(text, {"A": "blue", "B": "dog"}) == letter


@pytest.mark.parametrize("form", ["{}", "{}.", "({})", "**{}**", "Option {}", "The answer is {}"])
def test_an_option_that_is_not_shown_is_never_read(form):
    assert read_letter(form.format("C"), {"A": "red", "B": "blue"}) is None
    assert read_letter(form.format("C"), {"A": "red", "B": "blue", "C": "grey"}) == "C"


def test_options_that_hold_each_other():
    assert read_letter("car", {"A": "car", "B": "Car."}) == "A"
    assert read_letter("car.", {"A": "car", "B": "Car."}) is None
    assert read_letter("A", {"A": "B", "B": "A"}) == "A"  # a letter was asked for


@pytest.mark.parametrize(
    "text",
    ["A, B, ", "answer is ", "answer is *", "answer is a ", "answer is a !", "is ", "Z. ", "* "],
)
@pytest.mark.parametrize("blanks", ["", " " * 300_000, "*" * 300_000, "!" * 300_000])
def test_long_answers_are_read_in_no_time(text, blanks):
    options, start = {"A": "aa", "B": "ab"}, time.process_time()
    for answer in (text * 50_000, text + blanks, text * 100 + blanks + "dog", blanks + text):
        read_letter(answer, options)
    assert time.process_time() - start < 2


def test_perfect_and_empty_answers(table):
    perfect = score(answers(RIGHT), table)
    assert (perfect.value, perfect.questions, perfect.missing) == (100.0, 2, 0)
    assert perfect.parts == {
        "vanilla": 100.0,
        "unread answers": 0.0,
        "l2-category: perception": 100.0,
        "category: colour": 100.0,
        "category: place": 100.0,
    }
    empty = score(answers(dict.fromkeys(RIGHT, "")), table)
    assert (empty.value, empty.parts["vanilla"], empty.missing) == (0.0, 0.0, 0)
    assert empty.parts["unread answers"] == 100.0


def test_one_wrong_rotation_loses_the_question(table):
    result = score(answers({**RIGHT, 1000008: "A"}), table)
    assert (result.value, result.parts["vanilla"]) == (50.0, 80.0)
    assert (result.parts["category: colour"], result.parts["category: place"]) == (100.0, 0.0)
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


def test_the_test_table_is_for_the_server(tmp_path):
    at = HEADER.index("answer")
    path = write_table(
        tmp_path / "test.tsv",
        [cells[:at] + cells[at + 1 :] for cells in ROWS],
        HEADER[:at] + HEADER[at + 1 :],
    )
    with pytest.raises(UserError, match=r"only the OpenCompass server.*Write the submission"):
        score(answers(RIGHT), path)


def test_a_table_without_rotations_is_refused(tmp_path):
    with pytest.raises(UserError, match="no rotated rows"):
        score([], write_table(tmp_path / "t.tsv", [ROWS[0], ROWS[2]]))


def test_an_answer_to_no_row_is_refused(table):
    with pytest.raises(UserError, match="question_id '9'"):
        score(answers({**RIGHT, 9: "A"}), table)


def test_quotes_and_line_breaks_in_cells(tmp_path):
    path = write_table(tmp_path / "t.tsv", [row(1, ['say "a\tb"', "two\nlines"], "A")])
    (read,) = read_table(path)
    assert (read["A"], read["B"]) == ('say "a\tb"', "two\nlines")


def test_wrong_tables_are_named(tmp_path, table):
    for rows, message in [
        ([*ROWS, ["3", "Which?"]], r"t.tsv: index 3 has no answer"),
        ([*ROWS, ROWS[0]], r"t.tsv: index 7 is there twice"),
        ([row("x", ["a", "b"], "A")], r"t.tsv: row 1: the index 'x' is no number"),
        ([*ROWS, row(9, ["a", "b"], "AB")], "index 9 has the answer 'AB'"),
        ([], "has no rows"),
    ]:
        with pytest.raises(UserError, match=message):
            score([], write_table(tmp_path / "t.tsv", rows))
    with pytest.raises(UserError, match=r"not.tsv: cannot be read"):
        score([], tmp_path / "not.tsv")
    with pytest.raises(UserError, match="no column index, A, B"):
        score([], write_table(tmp_path / "t.tsv", [], ["id", "question"]))


def test_a_missing_option_may_be_written_as_nan(tmp_path):
    path = tmp_path / "t.tsv"
    head = "index\tquestion\tA\tB\tC\tD\tanswer\n"
    path.write_text(f"{head}1\tq\tx\ty\tnan\tnan\tA\n1000001\tq\ty\tx\tNaN\tnan\tB\n")
    result = score(answers({1: "A", 1000001: "nan"}), path)
    assert (result.value, result.parts["vanilla"]) == (0.0, 50.0)
    assert result.protocol["rotations"] == "complete"


@pytest.mark.parametrize("absent", ["NA", "None", "none", "N/A", "null"])
def test_absent_options_are_llavas(tmp_path, absent):
    path = tmp_path / "t.tsv"
    head = "index\tquestion\tA\tB\tC\tD\tanswer\tcategory\n"
    rows = f"1\tq\tx\ty\t{absent}\tz\tA\t{absent}\n1000001\tq\ty\tx\t{absent}\tz\tB\tplace\n"
    path.write_text(head + rows)
    result = score(answers({1: "A", 1000001: "B"}), path)
    assert (result.value, result.protocol["rotations"]) == (100.0, "complete")
    assert not any(name.startswith("category") for name in result.parts)
    assert score(answers({1: "z"}), path).parts["unread answers"] == 50.0  # D is not shown


def test_a_right_option_that_is_not_shown_is_wrong_and_counted(tmp_path):
    path = tmp_path / "t.tsv"
    head = "index\tquestion\tA\tB\tC\tanswer\n"
    path.write_text(f"{head}1\tq\tx\ty\tNA\tC\n1000001\tq\ty\tx\tw\tB\n")
    result = score(answers({1: "C", 1000001: "B"}), path)
    assert (result.value, result.parts["vanilla"]) == (0.0, 50.0)
    assert result.protocol["rows whose right option is not shown"] == "1, wrong"
