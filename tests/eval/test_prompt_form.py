"""What a score says of the questions' prompts."""

import pytest

from llava_sea.eval.answers import Answer
from llava_sea.eval.score import Score, prompt_form, with_prompt

SHORT = "Answer the question using a single word or phrase."
ASIDE = "When the provided information is insufficient, respond with 'Unanswerable'."


def form(*prompts):
    return prompt_form([Answer(n, prompt, "") for n, prompt in enumerate(prompts)])


@pytest.mark.parametrize(
    ("prompts", "wanted"),
    [
        ([f"Who?\n{SHORT}", f"What?\n{SHORT}\n"], f'each question ends "{SHORT}"'),
        ([f"{who}?\n{ASIDE}\n{SHORT}" for who in "ab"], f'each question ends "{ASIDE} {SHORT}"'),
        ([f"Who?\nOCR: {n}\n{SHORT}" for n in "ab"], f'each question ends "{SHORT}"'),
        ([f"Who?\n{SHORT}", f"What?\n{SHORT}", "Why?"], f'2 of 3 questions end "{SHORT}"'),
        (["Who?", f"What?\n{SHORT}"], "the questions have no ending in common"),
        (["Who is it?", "What is it?", "Why?"], "the questions have no ending in common"),
        (["Describe it."] * 2, 'each question ends "Describe it."'),
        (["Who?\n" + "so " * 90 + "on", "Why?\n" + "so " * 90 + "on"], 'each question ends "...'),
    ],
)
def test_the_form_is_the_ending_that_most_questions_share(prompts, wanted):
    assert form(*prompts).startswith(wanted) and len(form(*prompts)) < 220


def test_prompts_that_are_not_known():
    assert form() == form("", " ") == "not known, no answer repeats it"


def test_any_other_text_is_another_form():
    assert form("Who?", "Why?") == form("Why?", "Who?")
    assert form("Who?", "Why?") != form("Who? In a word.", "Why? In a word.")


def test_a_score_carries_its_prompt_and_template():
    plain = Score("gqa", 50.0, "accuracy", "testdev", 2, 0, {"matching": "exact"})
    asked, longer = (
        with_prompt(plain, [Answer(1, f"Who?\n{ending}", "")], "v1") for ending in (SHORT, ASIDE)
    )
    assert list(asked.protocol) == ["prompt", "matching"] and asked.template == "v1"
    assert not asked.comparable(longer)
    assert asked.comparable(with_prompt(plain, [Answer(1, f"Who?\n{SHORT}", "")], "phi3"))
    assert SHORT in asked.describe() and "2 questions" in asked.describe()
