"""The ablations' runs: known by what they change, and older runs keep their names."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llava_sea.errors import UserError
from playground.claims import ablations
from playground.claims.ablations import ABLATIONS, KNOWN
from playground.claims.options import ABLATION_NAMES, QUICK_ABLATIONS, parse_options
from playground.claims.plan import PlannedClaim, all_runs
from playground.claims.report import report_ablations
from playground.claims.summary import BENCHMARKS
from playground.study.arms import ARMS, Arm
from playground.study.options import PLAYGROUND
from playground.study.plan import Planned, Run, _identity_of_arm

COMMITTED = PLAYGROUND / "study" / "results" / "runs"


def _identity(arm: Arm, folder: Path, labels: dict[str, Any]) -> dict[str, Any]:
    """Return an arm's part of a run's identity, given what its labels' manifest says."""
    store = folder / arm.name if arm.preset else None
    if store is not None:
        store.mkdir()
        (store / "manifest.json").write_text(json.dumps(labels))
    world: Any = SimpleNamespace(labels=lambda _: store)
    return _identity_of_arm(world, arm)


@pytest.mark.parametrize("name", ARMS)
def test_committed_runs_keep_their_names(name: str, tmp_path: Path) -> None:
    paths = sorted(COMMITTED.glob(f"llm-small-40-{name}-seed0-*.json"))
    assert len(paths) == 1
    config = json.loads(paths[0].read_text())["config"]
    config["arm"] = _identity(ARMS[name], tmp_path, config["arm"].get("labels", {}))
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    assert paths[0].stem.endswith(digest[:12])


def test_every_ablation_is_another_run_and_names_its_change(tmp_path: Path) -> None:
    labels = {"words_sha256": "0", "features": "value", "sign": 1}
    found = {}
    for name, arm in ABLATIONS.items():
        top_n = arm.extraction().get("sea_top_n")
        found[name] = _identity(arm, tmp_path, labels | {"top_n": top_n})
    best = found.pop("sea-best")
    assert len({json.dumps(one, sort_keys=True) for one in found.values()}) == len(found)

    def changes(name: str) -> dict[str, Any]:
        ours = found[name]["flags"] | {"top_n": found[name]["labels"]["top_n"]}
        before = best["flags"] | {"top_n": best["labels"]["top_n"]}
        return {k: v for k, v in ours.items() if before.get(k) != v}

    assert "sea_positives" not in best["flags"] and "warm_start" not in best
    assert {name: changes(name) for name in found if name != "plain"} == {
        "weight-0.25": {"sea_weight": 0.25},
        "weight-0.5": {"sea_weight": 0.5},
        "weight-2": {"sea_weight": 2.0},
        "constant": {"sea_weight_schedule": "constant"},
        "tau-1": {"sea_log_scale_init": 0.0},
        "window-1": {"sea_window": 1},
        "window-3": {"sea_window": 3},
        "top-1": {"top_n": 1},
        "top-5": {"top_n": 5},
        "top-10": {"top_n": 10},
        "all": {"sea_positives": "all"},
        "soft": {"sea_positives": "all", "sea_targets": "soft"},
        "mask": {"sea_mask_own_top_n": True},
        "warm-best": {},
        "warm-plain": {"sea_weight": 0.0},
    }
    warm = {name: one["warm_start"] for name, one in found.items() if "warm_start" in one}
    assert warm == {"warm-best": 50, "warm-plain": 50}


def test_the_names_of_the_flags_are_those_of_the_table() -> None:
    assert tuple(ABLATIONS) == ABLATION_NAMES and set(QUICK_ABLATIONS) <= set(ABLATION_NAMES)
    assert set(ABLATIONS) & set(ARMS) == {"plain", "sea-best"} and KNOWN["plain"] is ARMS["plain"]


def test_the_command_of_the_ablations() -> None:
    options = parse_options(["--ablations"])
    assert options.arms == ABLATION_NAMES and options.split == "dev"
    assert options.results.parts[-3:] == ("claims", "results", "ablations")
    grid = [(llm, options.lengths_of(llm), options.arms_of(llm)) for llm in options.llms]
    runs = all_runs(grid, options.seeds)
    assert len(runs) == 3 * 17 and {(r.llm.name, r.steps) for r in runs} == {("llm-small", 100)}
    few = parse_options(["--ablations", "--arms", "mask", "plain", "--split", "test", "--quick"])
    assert few.arms == ("plain", "mask") and few.split == "test" and few.lengths == (40,)
    assert "data" in few.results.parts and few.results.name == "ablations"
    claims = parse_options([])
    assert claims.split == "test" and claims.results.name == "results" and not claims.ablations


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ablations", "--arms", "sea-paper"], "--arms sea-paper: choose from plain, sea-best, "),
        (["--arms", "soft"], "--arms soft: choose from plain, sea-paper"),
        (["--ablations", "--output", "x.html"], "--ablations has tables and no page"),
    ],
)
def test_what_does_not_go_together_is_named(flags: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_options(flags)
    assert message in str(error.value)


def _result(score: float) -> dict[str, Any]:
    measures = dict.fromkeys(("caption_loss", "tacs", "gap", "nearest_objects", "answers"), 0.5)
    kept = {"document": 90.0, "conversation": 80.0}
    return {
        "stage1": {"curve": [{"step": 0, **measures}], "final": measures},
        "scores": dict.fromkeys(BENCHMARKS, score),
        "tuning_loss": 1.0 - score / 100,
        "language": {when: kept for when in ("before", "middle", "after")},
        "cpu_seconds": {"stage1": 1.0},
        "seconds": 2.0,
    }


def test_the_tables_are_against_best_with_plain_beside(tmp_path: Path) -> None:
    config = {
        "stage1": {"recipe": {"batch": 32}, "precision": "float32"},
        "stage2": {"tuning_steps": 300, "batch": 32, "learning_rate": 3e-3},
        "exams": ["0"],
    }
    planned: list[Planned] = []
    for arm, scores in {"plain": (40, 40), "sea-best": (50, 50), "mask": (55, 55)}.items():
        for seed, score in enumerate(scores):
            run = Run(tmp_path / "llm-small", 100, arm, seed)
            planned.append(PlannedClaim(run, config, tmp_path / f"{run.name}.json"))
            result = _result(float(score))
            if arm == "plain":
                result["scores"]["pope"] = 4.0  # no level for the gain over plain LLaVA
            planned[-1].save(result)
    said = report_ablations(planned, tmp_path, "dev")
    assert "summary-ablations.md" in said
    of_a_part = report_ablations(planned[:4], None, "dev")
    assert "SEA, `best`" in of_a_part and "the summary of all of it stays" in of_a_part
    assert len(list(tmp_path.glob("summary-ablations.*"))) == 2
    summary = json.loads((tmp_path / "summary-ablations.json").read_text())
    assert summary["baseline"] == ablations.BASELINE and "choose" in summary["warning"]
    plain, best, mask = summary["cells"]
    # Of best's level, 50, and of plain LLaVA's, 40.
    assert plain["gain"]["mean"] == pytest.approx(-(7 * 20 + 92) / 8)  # POPE: 4 of 50
    assert (best["gain"]["mean"], mask["gain"]["mean"]) == (None, 10)
    over_plain = [cell["second_gain"]["mean"] for cell in (plain, best, mask)]
    assert over_plain == [None, 25, 37.5]
    assert mask["mean"]["difference"]["mean"] == 5
    text = (tmp_path / "summary-ablations.md").read_text()
    assert "## Gains over SEA, `best`" in text and "cannot be below 0.5" in text
    row = "| llm-small | 100 | own top n no negatives | **+10.0 ± 0.0** | **+10.0 ± 0.0** | **+5.0"
    assert row in text and "| +10.0 +10.0 |  |" in text
    assert "| **+10.0 ± 0.0 (VQAv2)** | **+37.5 ± 0.0** | POPE |" in text
