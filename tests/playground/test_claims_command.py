"""The claims' command: it goes on where it stopped, and names what is wrong with its flags."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llava_sea.errors import UserError
from playground.claims import run as run_module
from playground.claims.__main__ import claims
from playground.claims.options import CHOSEN_ON, PLAYGROUND, Options, parse_options, parse_seeds
from playground.claims.plan import PlannedClaim, all_runs
from playground.claims.recipe import ClaimsRecipe
from playground.claims.report import count_others
from playground.study.plan import Run
from playground.study.recipe import Recipe

RECIPE = ClaimsRecipe(
    stage1=Recipe(
        num_train=16,
        batch=8,
        curve_shares=(0.0, 1.0),
        curve_pictures=2,
        curve_per_kind=1,
        final_pictures=2,
        final_per_kind=1,
        eval_batch=4,
    ),
    records=24,
    tuning_steps=2,
    batch=8,
    max_new_tokens=2,
)
LLM = PLAYGROUND / "models" / "llm-small"


def test_a_killed_study_goes_on(
    tmp_path: Path,
    executed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = Options(
        llms=(LLM,),
        arms=("plain", "none"),
        lengths=(2,),
        seeds=(3,),
        world=tmp_path,
        data=tmp_path,
        results=tmp_path / "results",
        page=tmp_path / "page.html",
        split="dev",
        precision="float32",
    )
    real = run_module.tuning_steps

    def killed_in_second(*args: Any) -> Iterator[float]:
        for loss in real(*args):
            yield loss
            if len(executed) == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "tuning_steps", killed_in_second)
    with pytest.raises(KeyboardInterrupt):
        claims(options, RECIPE)
    monkeypatch.setattr(run_module, "tuning_steps", real)
    assert len(list((options.results / "runs").iterdir())) == 1

    claims(dataclasses.replace(options, only_report=True), RECIPE)
    summary = (options.results / "summary.md").read_text()
    assert "1 of 2 runs are missing" in summary and "Development scenes" in summary
    assert "results in" not in capsys.readouterr().out
    claims(dataclasses.replace(options, only_forecast=True), RECIPE)
    assert "2 runs, 1 are done, 1 left" in capsys.readouterr().out

    claims(options, RECIPE)
    assert executed == ["llm-small-2-plain-seed3", *["llm-small-0-none-seed3"] * 2]
    assert json.loads((options.results / "summary.json").read_text())["missing"] == []
    sizes = [path.stat().st_size for path in (options.results / "runs").iterdir()]
    assert len(sizes) == 2 and max(sizes) < 6000
    assert options.page.read_text().count("<svg") >= 8
    claims(options, RECIPE)
    assert len(executed) == 3, "finished runs are not done again"


def test_the_main_grid_has_more_of_the_smallest() -> None:
    options = parse_options([])
    assert not set(options.seeds) & set(CHOSEN_ON)
    grid = [(llm, options.lengths_of(llm), options.arms_of(llm)) for llm in options.llms]
    runs = all_runs(grid, options.seeds)
    assert len(runs) == 5 * (3 * 5 + 1 + 5 + 4) and len(set(runs)) == len(runs)
    assert [run.seed for run in runs] == sorted(run.seed for run in runs), "seeds come outermost"
    assert {(r.llm.name, r.steps) for r in runs if r.arm == "none"} == {("llm-small", 0)}
    assert {r.llm.name for r in runs if r.arm == "warm-best"} == {"llm-small", "llm-medium"}
    all_of_large = parse_options(["--llms", "llm-large", "--arms", "none", "plain"])
    assert all_of_large.arms_of(all_of_large.llms[0]) == ("plain", "none")
    quick = parse_options(["--quick"])
    assert quick.quick and "data" in quick.results.parts and quick.lengths == (40,)
    both = parse_options(
        ["--lengths", "250", "--llms", "llm-large", "--quick", "--seeds", "4", "2"]
    )
    assert both.lengths == (250,) and both.seeds == (4, 5)


def test_a_part_of_the_grid_leaves_the_committed_summary_alone(tmp_path: Path) -> None:
    for grid in ([], ["--ablations"]):
        assert not parse_options(grid).is_part()
        assert not parse_options([*grid, "--quick"]).is_part(), "has a folder of its own"
        for flags in (["--seeds", "5", "1"], ["--llms", "llm-large"], ["--arms", "plain"]):
            assert parse_options([*grid, *flags]).is_part()
            own = ["--results", str(tmp_path)]
            assert not parse_options([*grid, *flags, *own]).is_part()
    assert parse_options(["--split", "dev"]).is_part()
    same = ["--llms", "llm-small", "llm-medium", "llm-large", "--seeds", "5-9"]
    assert not parse_options(same).is_part()


def test_results_that_are_no_runs_of_the_grid_are_counted(tmp_path: Path) -> None:
    ours = PlannedClaim(Run(LLM, 40, "plain", 0), {}, tmp_path / "ours.json")
    ours.path.touch()
    assert count_others([ours], tmp_path) == ""
    (tmp_path / "old.json").touch()
    assert count_others([ours], tmp_path).startswith("1 results in ")


def test_seeds_are_read_in_two_forms() -> None:
    assert parse_seeds(["3", "2"]) == (3, 4) and parse_seeds(["0-4"]) == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--arms", "plain", "sea-magic"], "--arms sea-magic: choose from plain, sea-paper"),
        (["--lengths", "40", "0"], "--lengths 0 40: must be at least 1"),
        (["--seeds", "3"], "--seeds 3: give FIRST COUNT"),
        (["--seeds", "4-2"], "--seeds 4-2: names no seed"),
        (["--seeds", "1", "0"], "--seeds 1 0: names no seed"),
        (["--seeds", "0-19"], "--seeds: 20 of them; the exact test of the report takes 16 at most"),
        (["--workers", "0"], "--workers 0"),
        (["--split", "train"], "--split train: choose one of test, dev"),
        (["--llms", "llm-giant"], "llm-giant: no model there"),
        (["--output", "."], "is a folder; name the HTML file"),
    ],
)
def test_wrong_flags_are_named(flags: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_options(flags)
    assert message in str(error.value)


def test_nothing_to_report_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to report"):
        claims(Options(llms=(LLM,), results=tmp_path, only_report=True), RECIPE)
