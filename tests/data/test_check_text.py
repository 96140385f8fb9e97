"""What is asked of all records before a run starts: one error with a count, warnings, speed."""

import logging
import time

import pytest

from llava_sea.conversation import TEMPLATES
from llava_sea.data.check_text import check_conversations, errors_name
from llava_sea.data.records import Record, Turn
from llava_sea.errors import UserError

V1, PLAIN = TEMPLATES["v1"], TEMPLATES["plain"]


def record(index, *texts, image="a.jpg", first="human"):
    roles = ("human", "gpt") if first == "human" else ("gpt", "human")
    return Record(
        index, f"r{index}", image, tuple(Turn(roles[n % 2], t) for n, t in enumerate(texts))
    )


def good(index):
    return record(index, "<image>\nWhat?", "a ball")


@pytest.mark.parametrize(
    ("bad", "template", "message"),
    [
        (record(1, "What?", "a ball"), V1, "but 0 <image>"),
        (record(1, "<image>", "a", "<image>", "b"), V1, "but 2 <image>"),
        (record(1, "<image>\nWhat?", ""), V1, "no answer to learn from"),
        (record(1, "<image>\nWhat?"), V1, "no answer to learn from"),
        (record(1, "<image>\nWhat?", "a", image=None), V1, "<image> for its picture"),
        (record(1, "Hi", "a", "What? <image> ", "b", image=None), V1, 'there is no "image"'),
        (record(1, "a ball", "<image>\nWhat?", first="gpt"), V1, "speakers were swapped"),
        (record(1, "a", "<image>", "b", "Why?", first="gpt"), V1, "speakers were swapped"),
        (record(1, "a", "Hi", image=None, first="gpt"), V1, "speakers were swapped"),
        (record(1, "<image>", "a", "b", "c"), PLAIN, "one human turn and one gpt turn"),
        (record(1, "<image>", "a", image=None), PLAIN, 'has no "image"'),
    ],
)
def test_bad_records_are_counted_and_named_with_their_file(bad, template, message):
    rows = [good(0), bad, good(2)]
    with pytest.raises(UserError, match=message) as caught:
        check_conversations(rows, template, "data.json")
    text = str(caught.value)
    assert text.startswith("data.json: record 1 (id 'r1')")
    assert "1 of 3 records" in text and "also" not in text


def test_of_many_the_first_few_are_named():
    rows = [good(0), *(record(n, "What?", "a ball") for n in range(1, 8))]
    with pytest.raises(UserError, match=r"7 of 8 records .*also record 2, 3, 4, 5, \.\.\."):
        check_conversations(rows, V1, "data.json")
    with pytest.raises(UserError, match=r"2 of 2 records .*\(also record 2\)"):
        check_conversations(rows[1:3], V1, "data.json")


def test_good_records_pass_without_a_word(caplog):
    check_conversations([good(0), record(1, "Hi", "Ho", image=None)], V1, "data.json")
    check_conversations([good(0)], PLAIN, "data.json")
    assert not caplog.text


def test_what_is_borne_is_logged_with_a_count(caplog):
    rows = [
        good(0),
        record(1, "Welcome", "What is <image> in HTML?", "A tag", image=None, first="gpt"),
        record(2, "What is <image>?", "a tag", image=None),
        record(3, "Welcome", "<image>\nWhat?", "a ball", first="gpt"),
    ]
    with caplog.at_level(logging.WARNING, logger="llava_sea"):
        check_conversations(rows, V1, "data.json")
    assert caplog.messages == [
        "data.json: 2 records begin with a gpt turn, which is left out as in LLaVA; the first: "
        "record 1 (id 'r1')",
        'data.json: 2 records have no "image" and train on <image> as text; the first: '
        "record 1 (id 'r1')",
    ]


def test_it_takes_a_fraction_of_a_minute_for_llavas_665k():
    turns = ("<image>\nWhat is in this picture?", "a ball " * 30) + ("And now?", "a box " * 20) * 4
    rows = [record(n, *turns) for n in range(2000)]
    start = time.process_time()
    check_conversations(rows, V1, "data.json")
    assert (time.process_time() - start) * 665 / 2 < 60


def test_errors_get_the_file_that_they_lack():
    worker = "Caught UserError in DataLoader worker process 0.\nTraceback\nx.UserError: record 7: y"
    for text in ("record 7: y", worker):
        with pytest.raises(UserError) as caught, errors_name("data.json"):
            raise UserError(text)
        assert str(caught.value) == "data.json: record 7: y"
    with pytest.raises(UserError, match=r"^--flag: no") as caught, errors_name("data.json"):
        raise UserError("--flag: no")
