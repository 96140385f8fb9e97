"""Means, intervals, paired differences and steps to a level, on numbers worked out by hand."""

import math
from pathlib import Path

import pytest

from playground.study.forecast import OVERHEAD_STEPS, seconds_left
from playground.study.plan import Run, all_runs
from playground.study.results import MEASURES, summarise
from playground.study.statistics import estimate, paired, steps_to_level


def test_interval_of_five_seeds_by_hand() -> None:
    # Deviations -2 -1 0 1 2: variance 10 / 4, standard error sqrt(2.5 / 5), t for 4 is 2.776.
    found = estimate([1, 2, 3, 4, 5])
    assert found.mean == 3 and found.seeds == 5
    assert found.half == pytest.approx(2.776 * math.sqrt(0.5))


def test_one_seed_has_no_interval_and_none_no_mean() -> None:
    assert estimate([2.5]).mean == 2.5 and math.isnan(estimate([2.5]).half)
    assert estimate([2.5]).sign == 0
    assert math.isnan(estimate([]).mean)


def test_differences_are_paired_by_seed() -> None:
    plain = {0: 1.0, 1: 5.0, 2: 9.0}
    arm = {2: 8.6, 0: 0.5, 1: 4.7, 7: 100.0}  # seed 7 has no partner
    found = paired(arm, plain)
    assert found.mean == pytest.approx(-0.4) and found.seeds == 3
    assert found.half == pytest.approx(4.303 * 0.1 / math.sqrt(3))
    assert found.sign == -1  # although the arms' own intervals overlap widely
    assert paired({0: 1.0, 1: -1.0}, {0: 0.0, 1: 0.0}).sign == 0


@pytest.mark.parametrize(
    ("level", "expected"),
    [(2.0, 30 + 20 * 0.4 / 1.4), (2.5, 15.0), (4.0, 0.0), (5.0, 0.0), (0.5, None)],
)
def test_steps_to_level_lie_on_the_line_between_points(
    level: float, expected: float | None
) -> None:
    # 2 is touched at 20 and lost again; 2.4 at 30 and 1 at 50 cross it for good
    found = steps_to_level([0, 10, 20, 30, 50], [4, 3, 2, 2.4, 1], level, better=-1)
    assert found == (None if expected is None else pytest.approx(expected))


def test_steps_to_level_where_more_is_better() -> None:
    assert steps_to_level([0, 10, 20], [0.1, 0.2, 0.4], 0.3, better=+1) == pytest.approx(15)
    assert steps_to_level([0, 10, 20], [0.1, 0.2, 0.4], 0.5, better=+1) is None


def test_runs_come_seed_by_seed() -> None:
    runs = all_runs([Path("a"), Path("b")], [40, 100], ["plain", "sea-best"], 3)
    assert len(runs) == 24 == len(set(runs))
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    assert [run.arm for run in runs[:2]] == ["plain", "sea-best"]


def _result(loss: tuple[float, ...]) -> dict[str, object]:
    rest = {m.key: 0.5 for m in MEASURES}
    return {
        "curve": [{"step": 10 * i, **rest, "caption_loss": v} for i, v in enumerate(loss)],
        "final": rest | {"caption_loss": loss[-1]},
        "final_answers": {"counting": loss[0] / 10},
        "temperature": None,
    }


def test_a_cell_is_compared_with_plain_llava_of_the_same_seeds() -> None:
    plain, best = ("llm", 20, "plain"), ("llm", 20, "sea-best")
    cells = {
        plain: {0: _result((5, 4, 3)), 1: _result((5, 4, 2)), 2: _result((5, 5, 1))},
        best: {0: _result((5, 3, 2)), 1: _result((5, 3, 2.5))},
    }
    found = summarise(best, cells)
    assert found["seeds"] == [0, 1]
    loss = found["final"]["caption_loss"]
    assert loss["mean"] == 2.25 and loss["values"] == {0: 2, 1: 2.5}
    assert loss["difference"][0] == pytest.approx(-0.25) and loss["difference"][2] == 2
    steps = found["steps_to_plain"]["caption_loss"]
    assert steps == {"mean": 10.0, "half": None, "reached": 1, "of": 2}
    own = summarise(plain, cells)["steps_to_plain"]["caption_loss"]
    assert own["mean"] == 20 and own["reached"] == 3
    assert found["curve"]["steps"] == [0, 10, 20]
    assert found["curve"]["caption_loss"][0] == [5, 3, 2.25]


def test_forecast_prefers_the_like_and_scales_the_rest(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    for folder, size in ((small, 1_000_000), (large, 3_000_000)):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes(size))
    done = [(Run(small, 40, "plain", 0), 10.0)]
    assert seconds_left([Run(small, 40, "plain", 1)] * 4, done, 2) == pytest.approx(20)
    longer = (100 + OVERHEAD_STEPS) / (40 + OVERHEAD_STEPS)
    assert seconds_left([Run(small, 100, "plain", 0)], done, 1) == pytest.approx(10 * longer)
    assert seconds_left([Run(large, 40, "plain", 0)], done, 1) == pytest.approx(20)
    assert math.isnan(seconds_left([Run(small, 40, "plain", 0)], [], 1))
