"""The two normalisers: cases worked out by hand from the published rules."""

import pytest

from llava_sea.eval.normalise import normalise_m4c, normalise_vqa


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("   ", ""),
        ("Unanswerable", "unanswerable"),
        ("well-known", "well known"),  # no space beside the mark: a space in its place
        ("a - b", "b"),  # beside a space: deleted, and "a" is an article
        ("x - y", "x y"),
        ("well-known - yes", "wellknown yes"),  # beside a space once: deleted everywhere
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("3.", "3"),
        ("3 .5", "3 .5"),
        ("no.", "no"),
        ("u.s.a.", "usa"),
        ("dont", "don't"),
        ("Dont", "don't"),
        ("two", "2"),
        ("None", "0"),
        ("ten men", "10 men"),
        ("twenty one", "twenty 1"),
        ("the man", "man"),
        ("the", ""),
        ("A an THE", ""),
        ("red\nblue\tgreen", "red blue green"),
        ("red, blue", "red blue"),
        ("(left)", "left"),
        ("50%", "50%"),  # not among the 21 marks
        ("12:30", "12:30"),
        ("Café ÀÉ", "café àé"),
        ("東京", "東京"),
        ("don\u2019t", "don\u2019t"),  # a curly apostrophe is another character
        ("id've", "id've"),  # the table has Id've, which lower case never meets
        ("somebody'd", "somebodyd"),  # the wrong way round in the sources
        ("youve", "you've"),
    ],
)
def test_both_ways_agree(text, expected):
    assert normalise_m4c(text) == expected
    assert normalise_vqa(text) == expected


@pytest.mark.parametrize(
    ("text", "m4c", "vqa"),
    [
        ("it's", "it 's", "it's"),
        ("the man's hat", "man 's hat", "man's hat"),
        ("let's", "let 's", "let's"),
        ("what's?", "what 's", "what's"),
        ("red,blue", "redblue", "red blue"),
        ("1,000-2,000", "1000 2000", "10002000"),  # digit-comma-digit: all marks deleted
        ("is it?yes", "is ityes", "is it yes"),
        ("one,two", "onetwo", "1 2"),
    ],
)
def test_where_the_two_ways_differ(text, m4c, vqa):
    assert normalise_m4c(text) == m4c
    assert normalise_vqa(text) == vqa


def test_at_most_32_full_stops_go():
    assert normalise_m4c("." * 32) == ""
    assert normalise_m4c("." * 40) == "." * 8
    assert normalise_vqa("x" + "." * 33) == "x."


def test_a_full_stop_before_a_digit_stays_whatever_is_before_it():
    assert normalise_vqa("v.2") == "v.2"
    assert normalise_m4c("2.v") == "2v"
