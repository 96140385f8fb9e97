"""Gains and tests over seeds, worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from llava_sea.errors import UserError
from playground.claims.gains import BENCHMARKS, gain_of, gain_over, levels_of
from playground.claims.page import write_page
from playground.claims.plan import PlannedClaim
from playground.claims.report import report
from playground.claims.significance import holm, sign_flip_p, t_test_p
from playground.claims.summary import summarise
from playground.claims.tables import gain_table, parts_table, write_summary
from playground.study.plan import Planned, Run


def test_sign_flips_count_patterns_that_are_as_far() -> None:
    assert sign_flip_p([1.0, 2.0, 3.0]) == 2 / 8  # only +++ and --- reach 6
    assert sign_flip_p([1.0, -1.0]) == 1.0
    assert sign_flip_p([3.0, -1.0]) == 1.0 - 2 / 4 + 2 / 4  # sums 2, 4, -4, -2: all reach 2
    assert sign_flip_p([0.1, 0.2, 0.3]) == 2 / 8  # sums of the same numbers, rounded otherwise
    assert sign_flip_p([2.0] * 5) == 2 / 32
    assert math.isnan(sign_flip_p([]))


def test_the_t_test_of_few_seeds() -> None:
    # One degree of freedom is Cauchy's: t = 1 cuts off half. Differences 0 and 2: mean 1, error 1.
    assert t_test_p([0.0, 2.0]) == pytest.approx(0.5, abs=1e-9)
    # Two degrees: P(|T| < t) = t / sqrt(2 + t^2). Differences 1, 2, 3: t = 2 sqrt(3).
    assert t_test_p([1.0, 2.0, 3.0]) == pytest.approx(1 - math.sqrt(12 / 14), abs=1e-9)
    # Four degrees: 2.776 is the table's 97.5 % point. Mean m, error 1 / sqrt(2).
    shift = 2.7764451 / math.sqrt(2)
    assert t_test_p([shift + d for d in (-2, -1, 0, 1, 2)]) == pytest.approx(0.05, abs=1e-6)
    assert math.isnan(t_test_p([1.0])) and math.isnan(t_test_p([1.0, 1.0]))


def test_holm_counts_the_tests_that_are_left() -> None:
    # Three tests: the smallest counts three times, the next twice; none falls below one before it.
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.4]) == [0.8, 0.8] and holm([]) == []


def test_a_gain_is_the_mean_of_relative_gains() -> None:
    ours, plain = {"a": 11.0, "b": 30.0, "c": 9.0}, {"a": 10.0, "b": 40.0, "c": 0.0}
    assert gain_of(ours, plain, {"a": 20.0, "b": 40.0}) == pytest.approx((5 - 25) / 2)
    assert math.isnan(gain_of(ours, plain, {}))


def test_a_level_of_nothing_is_left_out() -> None:
    runs = {
        0: {"scores": dict.fromkeys(BENCHMARKS, 40.0)},
        1: {"scores": dict.fromkeys(BENCHMARKS, 20.0)},
    }
    runs[0]["scores"] |= {"mmbench": 5.0}
    runs[1]["scores"] |= {"mmbench": 4.0}
    levels = levels_of(runs)
    assert "mmbench" not in levels and len(levels) == 7 and set(levels.values()) == {30.0}


def test_a_gain_comes_from_its_benchmarks() -> None:
    def run(**scores: float) -> dict[str, Any]:
        return {"scores": dict.fromkeys(BENCHMARKS, 50.0) | scores}

    base = {0: run(mmbench=2.0), 1: run(mmbench=2.0)}
    ours = {0: run(mmbench=4.0, pope=64.0, gqa=43.0), 1: run(mmbench=4.0, pope=64.0, gqa=43.0)}
    gain = gain_over(ours, base)  # seven count: POPE +28 %, GQA -14 %
    assert gain["by_seed"] == {"0": 2.0, "1": 2.0} and gain["left_out"] == ["mmbench"]
    assert gain["parts"]["pope"] == 4.0 and gain["parts"]["gqa"] == -2.0
    assert sum(gain["parts"].values()) == gain["mean"] == 2.0
    assert gain["without"] == {"benchmark": "pope", "mean": -2.3333, "half": 0.0, "seeds": 2}
    loss = gain_over(base, ours)
    assert loss["mean"] < 0 and loss["without"]["benchmark"] == "pope"  # what falls most
    assert gain_over(ours, {})["parts"] == {} and gain_over(ours, {})["without"] is None


CONFIG = {
    "stage1": {"recipe": {"batch": 32}, "precision": "float32"},
    "stage2": {"tuning_steps": 300, "batch": 32, "learning_rate": 3e-3},
    "exams": ["0"],
}


def _result(score: float) -> dict[str, Any]:
    measures = dict.fromkeys(("caption_loss", "tacs", "gap", "nearest_objects", "answers"), 0.5)
    kept = {"document": 90.0, "conversation": 80.0}
    return {
        "stage1": {"curve": [{"step": 0, **measures}, {"step": 40, **measures}], "final": measures},
        "scores": dict.fromkeys(BENCHMARKS, score),
        "tuning_loss": 1.0 - score / 100,
        "language": {when: kept for when in ("before", "middle", "after")},
        "cpu_seconds": {"stage1": 1.0},
        "seconds": 2.0,
    }


def test_a_summary_pairs_seeds_and_marks_what_is_missing(tmp_path: Path) -> None:
    planned: list[Planned] = []
    scores = {("plain", 0): 50.0, ("plain", 1): 40.0, ("sea-best", 0): 55.0, ("sea-best", 1): 48.0}
    for arm in ("plain", "sea-best"):
        for seed in (0, 1, 2):
            run = Run(tmp_path / "llm-small", 40, arm, seed)
            item = PlannedClaim(run, CONFIG, tmp_path / f"{run.name}.json")
            planned.append(item)
            if (arm, seed) in scores:
                item.save(_result(scores[arm, seed]))
    summary = summarise(planned, "test")
    summary["warning"] = ""
    assert summary["missing"] == ["llm-small-40-plain-seed2", "llm-small-40-sea-best-seed2"]
    best = summary["cells"][1]
    assert best["gain"]["by_seed"] == {"0": 11.111, "1": 17.778}
    gain = best["gain"]  # of plain LLaVA's mean, 45
    assert gain["mean"] == pytest.approx(650 / 45, abs=1e-3) and gain["left_out"] == []
    assert gain["half"] == pytest.approx(12.706 * 150 / 45, 1e-3)
    assert best["gain"]["sign_flip_p"] == 0.5
    assert best["mean"]["difference"]["mean"] == 6.5
    (row,) = gain_table(summary).rows
    assert row[3].text == "+14.4 ± 42.4" and row[3].verdict == 0
    assert row[2].text == "SEA, `best` (n=2)" and row[7].text == row[8].text, "one test: Holm's p"
    (row,) = parts_table(summary).rows
    assert [field.text for field in row[3:]] == ["+1.8"] * 8 + ["+14.4 ± 42.4 (VQAv2)"]
    text, page = write_summary(json.loads(json.dumps(summary))), write_page(summary)
    assert "a run, median: llm-small 1 s" in text
    assert "Of 8 single scores beside the baseline's 0 are bold and 0 slanted" in text
    assert "2 of 6 runs are missing" in text and "+11.1 +17.8" in text
    assert page.count("<svg") >= 8 and "http" not in page and "prefers-color-scheme: dark" in page
    assert "with 2 seeds its p cannot be below 0.5" in text
    assert "no evidence for" in page and "no evidence for" in text


def test_seeds_that_chose_are_no_evidence(tmp_path: Path) -> None:
    for seed, warned in ((4, True), (5, False)):
        item = PlannedClaim(Run(tmp_path, 40, "plain", seed), CONFIG, tmp_path / f"{seed}.json")
        item.save(_result(50.0))
        said = report([item], None, tmp_path / "page.html", "test")
        assert ("were chosen" in (tmp_path / "page.html").read_text()) == warned
        assert "the summary of all of it stays" in said


def test_plain_llava_has_a_gain_over_no_stage_1(tmp_path: Path) -> None:
    planned = []
    for arm, steps, score in (("none", 0, 40.0), ("plain", 40, 50.0), ("sea-best", 40, 30.0)):
        run = Run(tmp_path / "llm-small", steps, arm, 0)
        planned.append(PlannedClaim(run, CONFIG, tmp_path / f"{run.name}.json"))
        planned[-1].save(_result(score))
    table = parts_table(summarise(planned, "test"))
    assert table.head[-2:] == ["over no stage 1, %", "left out there"]
    assert [(row[2].text, row[-2].text) for row in table.rows] == [
        ("plain LLaVA", "+25.0"),
        ("SEA, `best`", "-25.0"),
    ]
    assert {field.text for field in table.rows[0][3:-2]} == {"–"}


def test_what_has_no_baseline_leaves_nothing_out(tmp_path: Path) -> None:
    run = Run(tmp_path / "llm-small", 40, "sea-best", 0)
    item = PlannedClaim(run, CONFIG, tmp_path / "run.json")
    item.save(_result(50.0))
    table = gain_table(summarise([item], "test"))
    assert [field.text for field in table.rows[0][3:]] == ["–"] * 6 + ["", ""]
    assert "cannot be below" not in table.caption


def test_beside_the_gain_stands_one_with_nothing_left_out(tmp_path: Path) -> None:

    def gain_cell(name: str, plain: float, best: float) -> list[str]:
        planned = []
        for arm, mmbench in (("plain", plain), ("sea-best", best)):
            run = Run(tmp_path / name, 40, arm, 0)
            item = PlannedClaim(run, CONFIG, tmp_path / f"{run.name}.json")
            result = _result(50.0)
            result["scores"] |= {"mmbench": mmbench}
            item.save(result)
            planned.append(item)
        table = gain_table(summarise(planned, "test"))
        assert table.head[4] == "none left out, %"
        (row,) = table.rows
        return [row[3].text, row[4].text, row[-1].text]

    # Seven benchmarks are the same; of the eighth plain has 2, best 1: -50 % / 8.
    assert gain_cell("llm-small", 2.0, 1.0) == ["+0.0", "-6.2", "MMBench"]
    assert gain_cell("llm-none", 0.0, 1.0) == ["+0.0", "–", "MMBench"]  # nothing to divide by
    assert gain_cell("llm-large", 40.0, 44.0) == ["+1.2", "+1.2", ""]


def test_scores_that_were_edited_away_are_named(tmp_path: Path) -> None:
    item = PlannedClaim(Run(tmp_path, 40, "plain", 0), {}, tmp_path / "run.json")
    for scores in ({"pope": "9"}, {"pope": None}, {"pope": math.nan}):
        result = _result(50.0)
        result["scores"] |= scores
        item.save(result)
        with pytest.raises(UserError, match=r"run\.json: is no finished run"):
            item.result()
