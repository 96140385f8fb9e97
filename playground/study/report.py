"""The study's tables and figures from its lines: ``study.md``, ``study.png``, ``study-dark.png``.

A cell is the mean over seeds ± half the width of its 95 % interval; **bold** where the arm is
better than plain LLaVA and *slanted* where it is worse, by the interval of the differences paired
by seed. The primary measures are tested, with Holm's correction over all of these tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import stdev
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from llava_sea.files import write_atomically
from llava_sea.terminal import say
from playground.study.arms import ARMS, BASELINE
from playground.study.plan import Run
from playground.study.recipe import BETTER, LLMS, PRIMARY
from playground.study.statistics import (
    Estimate,
    estimate,
    holm,
    paired,
    power,
    seeds_for_power,
    steps_to_level,
)

Results = Mapping[Run, Mapping[str, Any]]

SHOWN = {
    1: ("learned", "answers", "own", "nearest", "nearest_objects", "tacs", "gap", "length", "mir"),
    2: ("eight", "language", "tuning_loss"),
}
TITLES = {
    "learned": "learned, nats a token", "answers": "answers right, %", "own": "caption loss",
    "nearest": "nearest word right, %", "nearest_objects": "on objects, %", "tacs": "TACS",
    "gap": "gap", "length": "length / rows'", "mir": "MIR", "eight": "mean of the eight",
    "language": "text questions right, %", "tuning_loss": "stage 2's loss",
}  # fmt: skip
PERCENT = {"answers", "nearest", "nearest_objects"}
COLOURS = {
    "light": {"paper": "#fdfdfb", "ink": "#1d1f23", "soft": "#5c616b", "rule": "#d9dade"},
    "dark": {"paper": "#16181c", "ink": "#e6e6e3", "soft": "#a0a5af", "rule": "#363a42"},
}
ARM_COLOURS = {
    "light": ("#5c616b", "#b8322a", "#c98a12", "#2458a6", "#7b45a8", "#3b7d3a"),
    "dark": ("#a0a5af", "#f0806f", "#ecc05a", "#7fb0f5", "#c79bf0", "#83cc80"),
}


class Test(NamedTuple):
    """A primary comparison with plain LLaVA."""

    llm: str
    arm: str
    stage: int
    measure: str
    difference: Estimate
    deviation: float
    """Standard deviation of the differences between seeds."""


def values(results: Results, llm: str, arm: str, stage: int, measure: str) -> dict[int, float]:
    """Return a measure by seed."""
    return {
        run.seed: row["measures"][measure]
        for run, row in sorted(results.items())
        if (run.llm, run.arm, run.stage) == (llm, arm, stage)
    }


def primary_tests(results: Results) -> list[Test]:
    """Compare every arm with plain LLaVA on the primary measures."""
    found = []
    for stage, measures in PRIMARY.items():
        for llm, arm in _cells(results, stage):
            for measure in measures if arm != BASELINE else ():
                ours = values(results, llm, arm, stage, measure)
                plain = values(results, llm, BASELINE, stage, measure)
                differences = [ours[seed] - plain[seed] for seed in ours if seed in plain]
                deviation = stdev(differences) if len(differences) > 1 else math.nan
                found.append(Test(llm, arm, stage, measure, paired(ours, plain), deviation))
    return found


def write(results: Results, folder: Path) -> None:
    """Write the tables and the figures into a folder."""
    tests = primary_tests(results)
    parts = [
        "# What an LLM learns from an image, with and without SEA",
        _about(results),
        "## Primary measures",
        _primary_table(tests),
        "## After stage 1",
        _measure_table(results, 1),
        "Questions by kind, % right (chance is 50):",
        _parts_table(results, 1, "answers", 100),
        "## Steps saved",
        _steps_table(results),
    ]
    if _cells(results, 2):
        parts += [
            "## After stage 2",
            _measure_table(results, 2),
            _parts_table(results, 2, "eight", 1),
        ]
    for light in COLOURS:
        suffix = "" if light == "light" else f"-{light}"
        _draw(results, light).savefig(
            folder / f"study{suffix}.png", dpi=110, facecolor=COLOURS[light]["paper"]
        )
    parts.insert(2, "![Learned and answers over the steps of stage 1](study.png)")
    write_atomically(folder / "study.md", ("\n\n".join(parts) + "\n").encode())
    say(f"{folder / 'study.md'} and its figures are written")


def _cells(results: Results, stage: int) -> list[tuple[str, str]]:
    """Return the LLMs and arms that there are, in the order of the tables."""
    there = {(run.llm, run.arm) for run in results if run.stage == stage}
    return [(llm, arm) for llm in LLMS for arm in ARMS if (llm, arm) in there]


def _about(results: Results) -> str:
    commits = sorted({row["made"]["commit"] for row in results.values()})
    hours = sum(sum(row["seconds"].values()) for row in results.values()) / 3600
    return (
        f"{len(results)} lines, {hours:.1f} hours of CPU time; commit "
        f"{', '.join(commits)}. Mean ± half the 95 % t-interval over "
        "seeds. **Bold**: better than plain LLaVA, *slanted*: worse, by the interval of the "
        "differences paired by seed; among so many cells some are so by chance. What is measured "
        "and why stands in `playground/study/recipe.py` and `learned.py`. No evidence about real "
        "images: encoder and images are the miniature world's."
    )


def _primary_table(tests: Sequence[Test]) -> str:
    corrected = holm([test.difference.p for test in tests])
    rows = []
    for test, p in zip(tests, corrected, strict=True):
        scale = 100 if test.measure in PERCENT else 1
        found = test.difference
        shown = _interval(found, scale, signed=True)
        needed = seeds_for_power(found.mean, test.deviation) if test.deviation > 0 else math.nan
        rows.append(
            [
                *(test.llm, str(test.stage), ARMS[test.arm].title, TITLES[test.measure], shown),
                *(str(found.seeds), _number(found.p), _number(p)),
                *(_number(scale * test.deviation), _power(test), _number(needed, 0)),
            ]
        )
    head = ["LLM", "stage", "arm", "measure", "over plain LLaVA", "seeds", "p", "p, Holm"]
    head += ["spread of differences", "power for this difference", "seeds for 80 %"]
    return _table(head, rows)


def _power(test: Test) -> str:
    found = test.difference
    if not test.deviation > 0:
        return "–"
    return f"{power(found.mean, test.deviation, found.seeds):.2f}"


def _measure_table(results: Results, stage: int) -> str:
    rows = []
    for llm, arm in _cells(results, stage):
        cells = [
            _cell(results, llm, arm, stage, measure, 100 if measure in PERCENT else 1)
            for measure in SHOWN[stage]
        ]
        count = len(values(results, llm, arm, stage, SHOWN[stage][0]))
        rows.append([llm, ARMS[arm].title, str(count), *cells])
    return _table(["LLM", "arm", "seeds", *(TITLES[m] for m in SHOWN[stage])], rows)


def _cell(results: Results, llm: str, arm: str, stage: int, measure: str, scale: float) -> str:
    ours = values(results, llm, arm, stage, measure)
    plain = values(results, llm, BASELINE, stage, measure)
    text = _interval(estimate(list(ours.values())), scale)
    if arm == BASELINE or not plain:
        return text
    verdict = paired(ours, plain).sign * BETTER.get(measure.split(":")[0], 1)
    return f"**{text}**" if verdict > 0 else f"*{text}*" if verdict < 0 else text


def _parts_table(results: Results, stage: int, whole: str, scale: float) -> str:
    """Return a table of the measures ``WHOLE: PART``."""
    first = next(row for run, row in results.items() if run.stage == stage)
    names = [key for key in first["measures"] if key.startswith(f"{whole}: ")]
    rows = [
        [llm, ARMS[arm].title, *(_cell(results, llm, arm, stage, name, scale) for name in names)]
        for llm, arm in _cells(results, stage)
    ]
    return _table(["LLM", "arm", *(name.removeprefix(f"{whole}: ") for name in names)], rows)


def _steps_table(results: Results) -> str:
    """How many steps an arm needs to where plain LLaVA of the same seed ends."""
    rows = []
    for llm, arm in _cells(results, 1):
        if arm == BASELINE:
            continue
        cells = []
        for measure in PRIMARY[1]:
            reached, times = [], []
            for run, row in results.items():
                plain = results.get(run._replace(arm=BASELINE))
                if (run.llm, run.arm, run.stage) != (llm, arm, 1) or plain is None:
                    continue
                times.append(row["seconds"]["train"] / plain["seconds"]["train"])
                needed = steps_to_level(
                    [0, *(int(point["step"]) for point in row["curve"])],
                    [0.0 if measure == "learned" else 0.5]
                    + [point[measure] for point in row["curve"]],
                    plain["curve"][-1][measure],
                    +1,
                )
                if needed is not None:
                    reached.append(needed / plain["curve"][-1]["step"])
            share = estimate([100 * (1 - part) for part in reached])
            cells.append(f"{_interval(share, 1)} ({len(reached)} of {len(times)} seeds)")
        rows.append([llm, ARMS[arm].title, *cells, _interval(estimate(times), 1)])
    return (
        "Share of plain LLaVA's steps, %, that an arm saves until it is, for good, where plain "
        "LLaVA of the same seed ends (a smaller exam at four points of the run, joined by lines; "
        "over the seeds that get there). Beside it its CPU time, the warm start's too, over plain "
        "LLaVA's (the tower is run once for all of them, which no time has in it):\n\n"
        + _table(["LLM", "arm", *(TITLES[measure] for measure in PRIMARY[1]), "time"], rows)
    )


def _draw(results: Results, light: str) -> Figure:
    ink, arms = COLOURS[light], [arm for arm in ARMS if any(run.arm == arm for run in results)]
    llms = list(dict.fromkeys(llm for llm, _ in _cells(results, 1)))
    figure = Figure(figsize=(3.2 * len(llms) + 0.6, 4.8), layout="constrained")
    axes = figure.subplots(len(PRIMARY[1]), len(llms), squeeze=False, sharex="col")
    colour_of = dict(zip(ARMS, ARM_COLOURS[light] * 2, strict=False))
    drawn: dict[str, Any] = {}
    for column, llm in enumerate(llms):
        for row, measure in enumerate(PRIMARY[1]):
            axis = axes[row][column]
            _style(axis, ink)
            for arm in arms:
                curves = [
                    line["curve"]
                    for run, line in results.items()
                    if (run.llm, run.arm, run.stage) == (llm, arm, 1)
                ]
                if not curves:
                    continue
                steps = [point["step"] for point in curves[0]]
                scale = 100 if measure in PERCENT else 1
                points = [
                    estimate([scale * curve[i][measure] for curve in curves])
                    for i in range(len(steps))
                ]
                halves = [0.0 if math.isnan(p.half) else p.half for p in points]
                drawn[arm] = axis.errorbar(
                    steps, [p.mean for p in points], yerr=halves, color=colour_of[arm],
                    linewidth=1.6, capsize=2,
                )  # fmt: skip
            if row == 0:
                axis.set_title(llm, color=ink["ink"], fontsize=10, loc="left")
            if column == 0:
                axis.set_ylabel(TITLES[measure], color=ink["ink"])
        axes[-1][column].set_xlabel("steps of stage 1", color=ink["ink"])
    shown = [arm for arm in arms if arm in drawn]
    figure.legend(
        [drawn[arm] for arm in shown], [ARMS[arm].title.replace("`", "") for arm in shown],
        loc="outside upper center", ncols=3, frameon=False, labelcolor=ink["ink"],
    )  # fmt: skip
    return figure


def _style(axis: Any, colours: Mapping[str, str]) -> None:
    axis.set_facecolor(colours["paper"])
    axis.grid(axis="y", color=colours["rule"], linewidth=0.7)
    axis.tick_params(colors=colours["soft"], length=0)
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(colours["rule"])


def _interval(found: Estimate, scale: float, *, signed: bool = False) -> str:
    if found.seeds == 0:
        return "–"
    mean, half = scale * found.mean, scale * found.half
    digits = 1 if scale == 100 or abs(mean) >= 10 else 3
    text = f"{mean:{'+' if signed else ''}.{digits}f}"
    return text if math.isnan(half) else f"{text} ± {half:.{digits}f}"


def _number(value: float, digits: int = 3) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    line: Callable[[Sequence[str]], str] = lambda cells: "| " + " | ".join(cells) + " |"  # noqa: E731
    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])
