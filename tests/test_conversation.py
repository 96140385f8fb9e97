"""Templates: every string and its supervision written out by hand."""

import pytest

from llava_sea.conversation import TEMPLATES, Segment, get_template, render
from llava_sea.data.records import Record, Turn
from llava_sea.errors import UserError

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)


def record(*texts, image=None, first="human"):
    roles = ("human", "gpt") if first == "human" else ("gpt", "human")
    turns = tuple(Turn(roles[n % 2], text) for n, text in enumerate(texts))
    return Record(3, "k-12", image, turns)


def text_of(segments):
    return "".join(segment.text for segment in segments)


def learned(segments):
    return [segment.text for segment in segments if segment.supervised]


def test_plain_is_picture_and_caption():
    for instruction in ("Sum up this picture.\n<image>", "<image>\nSum it up.", "<image>"):
        segments = render(
            record(instruction, " a red kettle", image="a.jpg"), get_template("plain")
        )
        assert segments == [
            Segment("<image>", False, is_image=True),
            Segment(" a red kettle\n", True),
        ]


def test_v1_two_rounds():
    segments = render(
        record("How many boats? <image> ", "3", "Colour?", "White", image="a.jpg"),
        get_template("v1"),
    )
    assert text_of(segments) == (
        SYSTEM
        + " USER: <image>\nHow many boats? ASSISTANT: 3</s>USER: Colour? ASSISTANT: White</s>"
    )
    assert learned(segments) == [" 3</s>", " White</s>"]
    assert [segment.text for segment in segments if segment.is_image] == ["<image>"]


def test_v1_picture_alone_and_in_a_later_turn():
    alone = render(record("<image>", "3", image="a.jpg"), get_template("v1"))
    assert text_of(alone) == SYSTEM + " USER: <image> ASSISTANT: 3</s>"
    later = render(record("Hi", "Yes", "<image>Look", "3", image="a.jpg"), get_template("v1"))
    assert text_of(later).endswith("ASSISTANT: Yes</s>USER: <image>\nLook ASSISTANT: 3</s>")


def test_v1_text_only_keeps_the_literal_and_the_spaces():
    segments = render(record(" what is <image>? ", "a tag"), get_template("v1"))
    assert text_of(segments) == SYSTEM + " USER:  what is <image>?  ASSISTANT: a tag</s>"
    assert not any(segment.is_image for segment in segments)


def test_v1_leading_gpt_turn_is_left_out_and_a_last_question_stays_open():
    segments = render(record("Hello!", "Hi", "Yes?", "Why", first="gpt"), get_template("v1"))
    assert text_of(segments) == SYSTEM + " USER: Hi ASSISTANT: Yes?</s>USER: Why"
    assert learned(segments) == [" Yes?</s>"]


def test_v1_empty_answer_has_no_end_token():
    segments = render(record("Hi", "", "And?", "Yes"), get_template("v1"))
    assert text_of(segments) == SYSTEM + " USER: Hi ASSISTANT:USER: And? ASSISTANT: Yes</s>"
    assert learned(segments) == [" Yes</s>"]


def test_names():
    assert get_template("vicuna_v1") is get_template("v1")
    assert get_template("v0_plain") is get_template("plain")
    human = text_of(render(record("Hi", "Yes"), get_template("llava_v1")))
    assert human.startswith("A chat between a curious human and an artificial intelligence")
    assert "answers to the human's questions. USER: Hi" in human
    with pytest.raises(UserError, match="no such conversation template") as caught:
        get_template("v7")
    assert all(name in str(caught.value) for name in TEMPLATES)


@pytest.mark.parametrize(
    ("bad", "version", "message"),
    [
        (record("<image>", "x"), "plain", r'record 3 \(id .k-12.\): has no "image"'),
        (record("<image>", "a", "b", "c", image="a.jpg"), "plain", "one human turn and one gpt"),
        (record("x", "<image>", image="a.jpg", first="gpt"), "plain", "one human turn and one gpt"),
        (record("no picture", "a", image="a.jpg"), "plain", "but 0 <image>"),
        (record("<image>", " \n", image="a.jpg"), "plain", "caption .* is empty"),
        (record("no picture", "a", image="a.jpg"), "v1", r"1 image\(s\) .'a.jpg'. but 0 <image>"),
        (record("<image> <image>", "a", image="a.jpg"), "v1", "but 2 <image>"),
        (record("<image>", "a", "<image>", "b", image="a.jpg"), "v1", "but 2 <image>"),
        (record("<image>", "<image> a", image="a.jpg"), "v1", "stands in a gpt turn"),
        (record("<image>", "<image> a", image="a.jpg"), "plain", "stands in a gpt turn"),
    ],
)
def test_bad_records_are_named(bad, version, message):
    with pytest.raises(UserError, match=message) as caught:
        render(bad, get_template(version))
    assert "record 3 (id 'k-12')" in str(caught.value)


def test_turns_must_alternate():
    turns = (Turn("human", "a"), Turn("gpt", "b"), Turn("gpt", "c"))
    with pytest.raises(UserError, match="turn 2 is from 'gpt' where 'human' must speak"):
        render(Record(0, "0", None, turns), get_template("v1"))
