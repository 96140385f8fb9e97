"""The study: its exam, its statistics, its lines, and a run of both stages on a tiny world."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from llava_sea.alignment import LabelStore
from llava_sea.errors import UserError
from llava_sea.labels.occurrence import Truth
from llava_sea.train.arguments import SeaArguments
from playground.questions import QUESTION_KINDS, ask
from playground.study import __main__ as command
from playground.study import plan, pool, report
from playground.study.arms import ARMS
from playground.study.bench import Bench
from playground.study.learned import Learned, branch_losses, make_exam
from playground.study.plan import Made, Run
from playground.study.prepare import World, prepare
from playground.study.recipe import COUNTED, PRIMARY, Recipe, Stage1, Stage2
from playground.study.stage1 import draw_batches, make_model, warm_up
from playground.study.statistics import (
    estimate,
    holm,
    paired,
    power,
    seeds_for_power,
    steps_to_level,
)
from playground.study.true_labels import label_precision

MODELS = Path(__file__).parents[2] / "playground" / "models"
RECIPE = Recipe(
    split="dev",
    num_train=60,
    scenes=40,
    others=2,
    per_kind=4,
    aligned_scenes=8,
    mir_scenes=2,
    stage1=(("llm-small", Stage1(4, 8)),),
    stage2=(("llm-small", Stage2(2, 4, 1e-3)),),
)
MADE = Made("recipe", "arm", "scorers", "commit")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return prepare(tmp_path_factory.mktemp("study"), MODELS / "clip", ["best", "true"], RECIPE)


@pytest.fixture(scope="module")
def bench(world: World) -> Bench:
    return Bench(world, MODELS / "llm-small", RECIPE)


# --- the exam ---------------------------------------------------------------------------------


def test_the_two_scenes_of_a_question_answer_it_so() -> None:
    exam = make_exam("dev", 40, 4)
    assert exam == make_exam("dev", 40, 4) != make_exam("test", 40, 4)
    assert [pair.kind for pair in exam.pairs] == [k for k in QUESTION_KINDS for _ in range(4)]
    for pair in exam.pairs:
        assert pair.answers[0] != pair.answers[1] and pair.scenes[0] != pair.scenes[1]
        for number, answer in zip(pair.scenes, pair.answers, strict=True):
            assert answer in answers_of(exam.scenes[number], pair.kind, pair.text)
    with pytest.raises(ValueError, match="4 scenes have"):
        make_exam("dev", 4, 50)


def answers_of(scene: Any, kind: str, text: str) -> set[str]:
    import random

    asked = (ask(random.Random(seed), scene, kind) for seed in range(400))
    return {question.answer for question in asked if question and question.text == text}


def test_all_texts_of_a_scene_in_one_pass_equal_a_pass_for_each(bench: Bench) -> None:
    stage1 = make_model(bench, SeaArguments(), 0).eval()
    learned, rows = bench.learned, [3, 11, 12]
    with torch.no_grad():
        visual_BPD = stage1.project(torch.from_numpy(np.array(learned.features_IPD[rows])))
        branches = [learned.branches[row] for row in rows]
        found = branch_losses(stage1, learned.stem, visual_BPD, branches)
        for row, given in enumerate(branches):
            for branch, loss in zip(given, found[row], strict=True):
                before = len(learned.stem)
                ids = [*learned.stem, *[0] * 64, *branch.read, *branch.scored]
                image = torch.zeros(1, len(ids), dtype=torch.bool)
                image[0, before : before + 64] = True
                ids_1L = torch.tensor([ids])
                hidden = stage1.hidden_states(visual_BPD[row : row + 1], ids_1L, image)
                scores_LV = stage1.llava.lm_head(hidden)[0].log_softmax(-1)
                count = len(branch.scored)
                one = -sum(
                    float(scores_LV[place - 1, ids[place]])
                    for place in range(len(ids) - count, len(ids))
                )
                assert loss == pytest.approx(one, abs=1e-3)


def test_a_model_that_sees_and_one_that_guesses(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the image says is played by losses; what the LLM believes of an answer cancels."""
    learned = bench.learned
    scene_of = [(p.scenes, i) for p, i in zip(learned.exam.pairs, learned.places, strict=True)]

    def measure(sees: float) -> dict[str, float]:
        rng = np.random.default_rng(0)
        losses = [list(5 + rng.random(len(row))) for row in learned.branches]
        for row in losses:
            row[0] -= sees  # the own caption
        for (first, second), (i, j) in scene_of:
            belief = 3 * rng.random()  # the same in both scenes
            losses[first][i : i + 2] = [5 - sees, 5 + belief]
            losses[second][j : j + 2] = [5, 5 + belief - sees]
        monkeypatch.setattr(learned, "losses", lambda _: losses)
        return learned.measure(None)  # type: ignore[arg-type]

    seeing, guessing = measure(4.0), measure(0.0)
    assert seeing["answers"] == 1.0 and seeing["learned"] > 0.2 > abs(guessing["learned"])
    assert guessing["answers"] == 0.0  # a tie is not right
    assert seeing["other"] - seeing["own"] == pytest.approx(seeing["learned"])


# --- training ---------------------------------------------------------------------------------


def test_arms_of_a_seed_start_alike_and_see_the_same_data(bench: Bench, world: World) -> None:
    batches = []
    for arm, seed in (("plain", 1), ("best", 1), ("plain", 2)):
        labels = world.labels(ARMS[arm])
        sea = ARMS[arm].arguments(str(labels) if labels else None)
        model = make_model(bench, sea, seed)
        dataset, collator = bench.training_data(sea, seed)
        start = next(model.projector.parameters()).detach().clone()
        batches.append((next(draw_batches(dataset, collator, 8, seed)), start))
    (one, start), (other, same), (another, different) = batches
    assert torch.equal(one["pixel_values"], other["pixel_values"]) and torch.equal(start, same)
    assert "sea" not in one and bool(other["sea"]["valid_N"].any())
    assert not torch.equal(one["pixel_values"], another["pixel_values"])
    assert not torch.equal(start, different)


def test_a_warm_start_teaches_the_words_without_the_llm(
    bench: Bench, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sea = ARMS["warm"].arguments(str(world.labels(ARMS["warm"])))
    model = make_model(bench, sea, 1)
    dataset, collator = bench.training_data(sea, 1)
    batches = draw_batches(dataset, collator, 8, 1)
    batch = next(batches)
    before = float(model(**batch).sea_loss)
    monkeypatch.setattr(type(model), "language_loss", None)
    warm_up(model, batches, 10, 2e-3, RECIPE)
    model.align_only = True
    assert float(model(**batch).sea_loss) < before - 0.3


def test_true_labels_are_true_and_mined_ones_are_not_always(world: World) -> None:
    truth, shares = Truth(world.truth), {}
    for arm in ("best", "true"):
        folder = world.labels(ARMS[arm])
        assert folder is not None
        store = LabelStore(folder)
        shares[arm] = label_precision(store, truth, store.images())
    assert shares["true"] == (1.0, 1.0) and shares["best"][0] < 0.9


def test_arms_follow_the_presets() -> None:
    assert ARMS["plain"].labels_folder() is None and not ARMS["plain"].arguments(None).enabled
    assert ARMS["paper"].extraction()["sea_sign"] == "-1"
    measured = ARMS["paper-sign"].extraction()
    assert measured == ARMS["paper"].extraction() | {"sea_sign": "auto"}
    assert ARMS["warm"].labels_folder() == ARMS["best"].labels_folder()
    assert len({arm.labels_folder() for arm in ARMS.values()}) == len(ARMS) - 1
    assert {arm for arms in COUNTED.values() for arm in arms} <= ARMS.keys()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """The runs that are begun; they happen in this process."""
    begun: list[Run] = []

    def run_here(setup: Any, runs: Any, workers: int) -> Iterator[tuple[Run, float]]:
        for run in runs:
            begun.append(run)
            pool.execute(setup, run)
            yield run, 1.0

    monkeypatch.setattr(pool, "run_all", run_here)
    monkeypatch.setattr(command, "QUICK", RECIPE)
    return begun


def test_a_stopped_study_resumes_and_is_reported(
    here: list[Run], world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, data = tmp_path / "results" / "runs.jsonl", world.folder.parent
    flags = ["run", "--quick", "--data", str(data), "--results", str(lines)]
    flags += ["--arms", "plain", "best", "--llms", "llm-small"]
    measure = Learned.measure

    def killed(self: Learned, *args: Any) -> dict[str, float]:
        if len(here) == 3 and self.exam.scenes[10:]:
            raise KeyboardInterrupt
        return measure(self, *args)

    monkeypatch.setattr(Learned, "measure", killed)
    with pytest.raises(KeyboardInterrupt):
        command.main(flags)
    monkeypatch.setattr(Learned, "measure", measure)
    found = plan.read_results(lines.parent)
    assert len(found) == 4, "two runs of two stages, nothing of the one that was cut off"
    command.main(flags)
    assert len(here) == 3 + 2 and here[2] == here[3]
    found = plan.read_results(lines.parent)
    assert {(r.arm, r.seed, r.stage) for r in found} == {
        (arm, seed, stage) for arm in ("plain", "best") for seed in (0, 1) for stage in (1, 2)
    }
    # Stage 2 alone is run anew, from the projector that was kept.
    lines.write_text("".join(line for line in lines.open() if '"stage": 1' in line))
    monkeypatch.setattr("playground.study.stage1.train_stage1", None)
    command.main(flags)
    again = plan.read_results(lines.parent)
    assert {run: row["measures"] for run, row in again.items()} == {
        run: row["measures"] for run, row in found.items()
    }
    one = found[Run("llm-small", "plain", 0, 1)]
    assert [point["step"] for point in one["curve"]] == [1, 2, 3, 4]
    assert all(
        math.isfinite(row["measures"][m]) for r, row in found.items() for m in PRIMARY[r.stage]
    )
    text = (lines.parent / "study.md").read_text()
    assert "| llm-small | 2 | SEA, `best`, no warm start | mean of the eight |" in text
    assert " of 2 seeds)" in text
    assert {p.name for p in lines.parent.iterdir()} == {
        *("runs.jsonl", "recipe.json", "study.md", "study.png", "study-dark.png")
    }
    del here[:]
    command.main(flags)
    assert not here, "finished runs are not done again"
    monkeypatch.setattr(command, "QUICK", dataclasses.replace(RECIPE, max_grad_norm=2.0))
    with pytest.raises(UserError, match=r"runs\.jsonl, line 1: made with recipe"):
        command.main(flags)


# --- lines ------------------------------------------------------------------------------------


def add(folder: Path, run: Run, made: Made = MADE, **measures: float) -> None:
    plan.append(folder / "runs.jsonl", run, made, {"measures": measures, "seconds": {}})


def test_lines_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    run = Run("llm-small", "plain", 0, 1)
    add(tmp_path, run, learned=1.0)
    add(tmp_path, run, MADE._replace(commit="later"), learned=1.0)
    assert list(plan.read_results(tmp_path)) == [run]
    for field in ("recipe", "arm", "scorers"):
        with pytest.raises(UserError, match=f"line 1: made with {field} .*{field} .commit commit."):
            plan.read_results(tmp_path, {run: MADE._replace(**{field: "other"})})
    add(tmp_path, run._replace(arm="best"), MADE._replace(arm="its own"), learned=1.0)
    assert len(plan.read_results(tmp_path)) == 2
    add(tmp_path, run, learned=2.0)
    with pytest.raises(UserError, match="line 4: llm-small, plain, seed 0, stage 1 is there twice"):
        plan.read_results(tmp_path)


def test_a_commit_is_marked_where_sources_are_changed_not_results(tmp_path: Path) -> None:
    assert plan.commit_of(tmp_path) == "unknown"
    (tmp_path / "playground" / "study" / "results").mkdir(parents=True)
    source, lines = tmp_path / "a.py", tmp_path / "playground" / "study" / "results" / "runs.jsonl"
    for path in (source, lines):
        path.write_text("")
    names = ("-c", "user.name=x", "-c", "user.email=x@x")
    for words in (("init", "-q"), ("add", "."), (*names, "commit", "-qm", "x")):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    lines.write_text("a line")
    commit = plan.commit_of(tmp_path)
    assert len(commit) == 12
    source.write_text("changed")
    assert plan.commit_of(tmp_path) == f"{commit}-dirty"


@pytest.mark.parametrize(
    "line", ["{", "{}", "[]", '{"llm": "x", "arm": "y", "seed": 1, "stage": 1}']
)
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    add(tmp_path, Run("llm-small", "plain", 0, 1), learned=1.0)
    with open(tmp_path / "runs.jsonl", "a") as file:
        file.write(line)
    with pytest.raises(UserError, match=r"runs\.jsonl, line 2: is no finished run"):
        plan.read_results(tmp_path)


def test_runs_come_seed_by_seed() -> None:
    runs = plan.all_runs(["a", "b"], {1: ("plain", "true"), 2: ("plain",)}, (3, 4))
    assert [(r.seed, r.llm, r.arm, r.stage) for r in runs[:4]] == [
        *((3, "a", "plain", 2), (3, "a", "true", 1), (3, "b", "plain", 2), (3, "b", "true", 1))
    ]
    assert {run.seed for run in runs[4:]} == {4}


def test_a_report_tests_the_primary_measures_alone(tmp_path: Path) -> None:
    for seed in range(3):
        for arm, gain in (("plain", 0.0), ("best", 0.1)):
            run = Run("llm-small", arm, seed, 1)
            add(tmp_path, run, learned=0.5 + gain + 0.01 * seed * (1 + gain), answers=0.6, own=2.0)
    tests = report.primary_tests(plan.read_results(tmp_path))
    assert [(t.arm, t.measure) for t in tests] == [("best", "learned"), ("best", "answers")]
    assert tests[0].difference.mean == pytest.approx(0.101) and tests[0].difference.p < 0.01


def test_workers_pass_on_what_is_wrong(tmp_path: Path) -> None:
    setup = pool.Setup(World(tmp_path, MODELS / "clip", "dev"), RECIPE, tmp_path / "x", {})
    with pytest.raises(UserError, match=r"no such llm.*no such folder"):
        list(pool.run_all(setup, [Run("no such llm", "plain", 0, 1)], 1))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["run", "--arms", "magic"], "--arms magic: choose from plain"),
        (["report", "--results", "/nowhere/x.jsonl"], "/nowhere: holds no finished run"),
    ],
)
def test_wrong_flags_are_named(flags: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        command.main(flags)


# --- statistics -------------------------------------------------------------------------------


def test_estimates_are_scipys_and_pairs_go_by_seed() -> None:
    found = paired({1: 2.0, 2: 4.0, 3: 7.0, 9: 100.0}, {3: 1.0, 2: 1.0, 1: 1.0})
    low, high = stats.t.interval(0.95, 2, loc=10 / 3, scale=stats.sem([1.0, 3.0, 6.0]))
    assert (found.mean, found.seeds) == (pytest.approx(10 / 3), 3)
    assert found.mean - found.half == pytest.approx(low) and found.mean + found.half < high + 1e-9
    assert found.p == pytest.approx(stats.ttest_rel([2, 4, 7], [1, 1, 1]).pvalue)
    assert math.isnan(estimate([1.0]).half) and math.isnan(estimate([]).mean)
    assert estimate([1.0, 1.1, 1.2]).sign == 1 and estimate([-1.0, 1.1]).sign == 0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, math.nan, 0.03])[:2] == pytest.approx([0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_power_is_the_share_of_tests_that_find_the_effect() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.normal(0.7, 1.0, size=(8000, 8))
    found = float(np.mean(stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < 0.05))
    assert power(0.7, 1.0, 8) == pytest.approx(found, abs=0.02)
    needed = seeds_for_power(0.7, 1.0)
    assert power(0.7, 1.0, needed - 1) < 0.8 <= power(0.7, 1.0, needed)


def test_a_level_is_reached_for_good_or_not() -> None:
    steps = [0, 10, 20, 30]
    assert steps_to_level(steps, [0, 1, 2, 3], 1.5, +1) == 15
    assert steps_to_level(steps, [0, 2, 1, 3], 1.5, +1) == 22.5  # the first time was chance
    assert steps_to_level(steps, [3, 2, 1, 0], 5.0, -1) == 0
    assert steps_to_level(steps, [0, 1, 2, 3], 4.0, +1) is None


def test_results_are_json(tmp_path: Path) -> None:
    json.dumps(plan.content_of(Recipe()), allow_nan=False)
