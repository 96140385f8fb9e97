"""A score's protocol, relative gains, and the table of all benchmarks."""

import io
from pathlib import Path
from statistics import fmean

import pytest
from rich.console import Console

from llava_sea.eval.answers import Answer
from llava_sea.eval.benchmarks import TASKS
from llava_sea.eval.score import (
    Score,
    Submission,
    gains,
    prompt_form,
    relative_gain,
    with_prompt,
)
from llava_sea.eval.table import print_table

# Table 2 of the paper, Gemma-2B, the eight in its order: plain LLaVA and SEA.
PLAIN = [72.5, 43.7, 56.0, 61.3, 54.0, 84.4, 38.7, 23.9]
SEA = [76.6, 49.7, 60.9, 62.5, 59.5, 87.0, 39.5, 27.6]


def test_the_papers_headline_is_this_mean():
    assert fmean(map(relative_gain, SEA, PLAIN)) == pytest.approx(7.61, abs=5e-3)
    assert relative_gain(3.0, 0.0) is None


def score(value, **changes):
    fields = {
        "benchmark": "gqa",
        "metric": "accuracy",
        "split": "testdev_balanced",
        "questions": 12578,
        "missing": 0,
        "protocol": {"matching": "exact"},
    }
    return Score(value=value, **(fields | changes))


def test_gains_are_between_equal_protocols_alone():
    ours = {"a": score(66.0), "b": score(66.0), "c": score(66.0), "d": score(66.0)}
    theirs = {
        "a": score(60.0, missing=3),
        "b": score(60.0, questions=100),
        "c": score(60.0, protocol={"matching": "lower case"}),
    }
    assert gains(ours, theirs) == {"a": pytest.approx(10.0)}


def test_prompts_must_agree_and_templates_need_not():
    asked = {"prompt": 'each question ends "In a word."'}
    ours = {"a": score(66.0, protocol=asked, template="phi3"), "b": score(66.0, protocol=asked)}
    theirs = {"a": score(60.0, protocol=asked, template="v1"), "b": score(60.0)}
    assert gains(ours, theirs) == {"a": pytest.approx(10.0)}
    text = printed({"plain": {"gqa-testdev_balanced": theirs["a"]}, "phi": {}, "sea": ours})
    assert "Conversation templates: plain: v1; sea: phi3\n" in text
    assert "templates" not in printed({"b": {"gqa-testdev_balanced": theirs["b"]}})


def printed(columns, baseline=None) -> str:
    out = io.StringIO()
    print_table(TASKS, columns, baseline, Console(file=out, width=200))
    return out.getvalue()


def test_table():
    task = "gqa-testdev_balanced"
    judged = score(31.0, benchmark="mmvet", protocol={"judge": "gpt-4 at x"}, when="2026-01-31")
    text = printed(
        {
            "plain": {task: score(60.0)},
            "sea": {
                task: score(63.0, missing=2),
                "vizwiz-test": Submission(Path("/o/vizwiz_test.json"), "https://eval.ai"),
                "mmvet-test": judged,
            },
        },
        baseline="plain",
    )
    row = next(line for line in text.splitlines() if "GQA" in line)
    assert all(part in row for part in ("12,578", "60.0", "63.0 (2 unanswered)", "+5.0 %"))
    assert "to be submitted" in text and "/o/vizwiz_test.json -> https://eval.ai" in text
    assert "31.0 (gpt-4 at x, 2026-01-31)" in text
    assert "+5.00 %" in next(line for line in text.splitlines() if "mean gain" in line)
    assert "GQA testdev_balanced: accuracy, 12,578 questions. matching: exact" in text
    assert "TextVQA" not in text


def test_numbers_of_questions_that_differ_are_told():
    task = "gqa-testdev_balanced"
    text = printed({"plain": {task: score(60.0)}, "sea": {task: score(63.0, questions=1000)}})
    assert "differ" in next(line for line in text.splitlines() if "GQA" in line)
    assert "GQA testdev_balanced (plain): accuracy, 12,578 questions. " in text
    assert "GQA testdev_balanced (sea): accuracy, 1,000 questions. " in text


def test_the_mean_takes_one_gain_a_benchmark():
    two = ("vqav2-test-dev2015", "vqav2-val2014")
    columns = {
        "plain": {**{task: score(50.0) for task in two}, "pope-test": score(80.0)},
        "sea": {two[0]: score(60.0), two[1]: score(65.0), "pope-test": score(80.0)},
    }
    text = printed(columns, baseline="plain")
    assert "+10.00 %" in next(line for line in text.splitlines() if "mean gain" in line)
    assert "one a benchmark, of its first split that has one (sea: 2)" in text
    del columns["plain"][two[0]]  # the other split, +30 %
    assert "+15.00 %" in printed(columns, baseline="plain")


def test_a_second_mean_leaves_out_what_the_baseline_hardly_does():
    columns = {
        "plain": {"gqa-testdev_balanced": score(60.0), "mmbench-dev": score(2.5)},
        "sea": {"gqa-testdev_balanced": score(63.0), "mmbench-dev": score(0.0)},
    }
    lines = printed(columns, baseline="plain").splitlines()
    assert "-47.50 %" in next(line for line in lines if "mean gain" in line)
    second = next(line for line in lines if "without MMBench" in line)
    assert "+5.00 %" in second and "baseline below 5" in second
    columns["plain"]["mmbench-dev"] = score(5.0)
    assert "without" not in printed(columns, baseline="plain")


def test_what_has_no_gain_is_named():
    zero = score(0.0, benchmark="mmbench")
    task, other = "gqa-testdev_balanced", "mmbench-dev"
    columns = {
        "run[red]": {task: score(60.0), other: zero},
        "sea": {task: score(63.0), other: score(2.5, benchmark="mmbench")},
    }
    text = printed(columns, baseline="run[red]")
    assert "run[red]" in text.splitlines()[2]
    assert "gain: relative to run[red]" in text and "none over a score of 0: MMBench" in text
    assert "+5.00 %" in text
    served = score(70.0, questions=0, protocol={"scored by": "the server"})
    row = next(line for line in printed({"a": {task: served}}).splitlines() if "GQA" in line)
    assert " 0 " not in row


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
