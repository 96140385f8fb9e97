"""LLaVA's two commonest templates: every string and its supervision written out by hand."""

import pytest

from llava_sea.conversation import TEMPLATES, get_template, render
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


def shown(segments):
    """One text: an image as {image}, what is learned in double brackets."""
    marked = (f"[[{s.text}]]" if s.supervised else s.text for s in segments)
    return "".join("{image}" if s.is_image else m for s, m in zip(segments, marked, strict=True))


@pytest.mark.parametrize(
    "instruction", ["Sum up this image.\n<image>", "<image>\nSum it up.", "<image>"]
)
def test_plain_is_image_and_caption(instruction):
    segments = render(record(instruction, " a red kettle", image="a.jpg"), get_template("plain"))
    assert shown(segments) == "{image}[[ a red kettle\n]]"


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (
            record("How many boats? <image> ", "3", "Colour?", "White", image="a.jpg"),
            "{image}\nHow many boats? ASSISTANT:[[ 3</s>]]USER: Colour? ASSISTANT:[[ White</s>]]",
        ),
        (record("<image>", "3", image="a.jpg"), "{image} ASSISTANT:[[ 3</s>]]"),
        (
            record("Hi", "Yes", "<image>Look", "3", image="a.jpg"),
            "Hi ASSISTANT:[[ Yes</s>]]USER: {image}\nLook ASSISTANT:[[ 3</s>]]",
        ),
        (record(" what is <image>? ", "a tag"), " what is <image>?  ASSISTANT:[[ a tag</s>]]"),
        (record("Hello!", "Hi", "Yes?", "Why", first="gpt"), "Hi ASSISTANT:[[ Yes?</s>]]USER: Why"),
        (record("Hi", "", "And?", "Yes"), "Hi ASSISTANT:USER: And? ASSISTANT:[[ Yes</s>]]"),
    ],
    ids=["two rounds", "alone", "later", "text only", "begins with gpt", "empty answer"],
)
def test_v1(of, expected):
    assert shown(render(of, get_template("v1"))) == f"{SYSTEM} USER: {expected}"


def test_names():
    assert get_template("vicuna_v1") is get_template("v1")
    assert get_template("v0_plain") is get_template("plain")
    human = shown(render(record("Hi", "Yes"), get_template("llava_v1")))
    assert human.startswith("A chat between a curious human and an artificial intelligence")
    assert "answers to the human's questions. USER: Hi" in human
    with pytest.raises(UserError, match="no such conversation template") as caught:
        get_template("v7")
    assert all(name in str(caught.value) for name in TEMPLATES)


@pytest.mark.parametrize(
    ("bad", "version", "message"),
    [
        (record("<image>", "x"), "plain", 'has no "image"'),
        (record("<image>", "a", "b", "c", image="a.jpg"), "plain", "one human turn and one gpt"),
        (record("x", "<image>", image="a.jpg", first="gpt"), "plain", "one human turn and one gpt"),
        (record("no image", "a", image="a.jpg"), "plain", "but 0 <image>"),
        (record("<image>", " \n", image="a.jpg"), "plain", "caption .* is empty"),
        (record("no image", "a", image="a.jpg"), "v1", r"1 image\(s\) .'a.jpg'. but 0 <image>"),
        (record("<image> <image>", "a", image="a.jpg"), "v1", "but 2 <image>"),
        (record("<image>", "a", "<image>", "b", image="a.jpg"), "v1", "but 2 <image>"),
        (record("<image>", "<image> a", image="a.jpg"), "v1", "stands in a gpt turn"),
        (record("<image>", "<image> a", image="a.jpg"), "plain", "stands in a gpt turn"),
        (
            Record(3, "k-12", None, (Turn("human", "a"), Turn("gpt", "b"), Turn("gpt", "c"))),
            "v1",
            "turn 2 is from 'gpt' where 'human' must speak",
        ),
    ],
)
def test_bad_records_are_named(bad, version, message):
    with pytest.raises(UserError, match=rf"record 3 \(id 'k-12'\).*{message}"):
        render(bad, get_template(version))
