"""The measures of a run: their names, equations and keys in the log, their curves, their table.

Any key may be absent (plain LLaVA logs nothing of SEA): a measure without values is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from llava_sea.report.grid import Grid

Rows = Sequence[dict[str, Any]]
"""Lines of a run's log."""

PRECISION, IN_CAPTION = "eval_nearest_word_precision", "eval_nearest_word_in_caption"


@dataclass(frozen=True)
class Measure:
    """One quantity: its name, its symbol and equation in the paper, which way is better."""

    name: str
    symbol: str
    """A letter and its index, as "L_g"; empty where the name says it."""
    equation: str
    keys: dict[str, str]
    """Keys of the log, and the names of their lines."""
    better: int = 0
    """-1 lower, +1 higher, 0 neither."""
    percent: bool = False
    """Whether it is a share, shown as one; its axis begins at zero."""
    from_zero: bool = False
    in_table: bool = True


MEASURES = (
    Measure(
        "Caption loss", "L_g", "12", {"eval_lm_loss": "held out", "lm_loss": "training"}, better=-1
    ),
    Measure("Alignment loss", "L_a", "11", {"sea_loss": "training"}, better=-1),
    Measure(
        "Weight of the alignment loss",
        "λ",
        "13",
        {"sea_weight": "training"},
        from_zero=True,
        in_table=False,
    ),
    Measure("Temperature", "τ", "11", {"temperature": "training"}),
    Measure("Token alignment (TACS)", "", "14", {"eval_tacs": "held out"}, better=1),
    Measure("Modality gap", "D", "5", {"eval_gap": "held out"}, better=-1),
    Measure("Gap between unit vectors", "", "5", {"eval_gap_unit": "held out"}, better=-1),
    Measure(
        "Mean length",
        "",
        "1, 2",
        {"eval_visual_length": "visual tokens", "eval_embedding_length": "embedding rows"},
        from_zero=True,
    ),
    Measure(
        "Nearest word right",
        "",
        "4",
        {PRECISION: "all patches", f"{PRECISION}_objects": "on objects"},
        better=1,
        percent=True,
    ),
    Measure(
        "Nearest word in the caption", "", "4", {IN_CAPTION: "all patches"}, better=1, percent=True
    ),
)


class Point(NamedTuple):
    """A value and the step it was logged at."""

    step: int
    value: float


class Curve(NamedTuple):
    """One line of a chart."""

    label: str
    points: list[Point]
    colour: int = 0
    """The number of its colour on the page."""


class Chart(NamedTuple):
    """One measure over the steps."""

    measure: Measure
    curves: list[Curve]
    label: str = ""
    """The part of the measure that all curves show: "held out"."""

    @property
    def name(self) -> str:
        """Return the measure's name and the label."""
        return ", ".join(part for part in (self.measure.name, self.label) if part)


class Value(NamedTuple):
    """A number of the log; of the images shown, it has no step."""

    number: float
    step: int | None = None


class Line(NamedTuple):
    """A measure before training, where it was measured, and after."""

    measure: Measure
    label: str
    key: str
    before: Value | None
    after: Value


class Row(NamedTuple):
    """A row of the table, as text."""

    line: Line
    values: list[str]
    notes: list[str]
    """For each value its step, where the column's head names another."""
    change: str
    verdict: str
    good: bool


class Table(NamedTuple):
    """The table of the numbers: the heads of its columns, and its rows."""

    heads: list[str]
    rows: list[Row]


def points_of(rows: Rows, key: str) -> list[Point]:
    """Return a key's values by step; rows without it, or with no number in it, have none."""
    found = [(row["step"], row.get(key)) for row in rows]
    return [Point(int(s), float(v)) for s, v in found if isinstance(v, (int, float))]


def charts_of(rows: Rows) -> list[Chart]:
    """Return a chart for every measure that the log holds finite values of."""
    charts = []
    for measure in MEASURES:
        curves = [
            Curve(label, points_of(rows, key), colour)
            for colour, (key, label) in enumerate(measure.keys.items())
        ]
        charts.append(Chart(measure, curves))
    return _with_values(charts)


def charts_of_pair(names: tuple[str, str], rows: tuple[Rows, Rows]) -> list[Chart]:
    """Return a chart for each key of the log, with a curve of the run and one of the baseline."""
    charts = []
    for measure in MEASURES:
        for key, label in measure.keys.items():
            curves = [
                Curve(name, points_of(log, key), colour)
                for colour, (name, log) in enumerate(zip(names, rows, strict=True))
            ]
            charts.append(Chart(measure, curves, label))
    return _with_values(charts)


def _with_values(charts: Sequence[Chart]) -> list[Chart]:
    """Leave out curves without a finite value, and charts without a curve."""
    kept = []
    for chart in charts:
        curves = [c for c in chart.curves if any(math.isfinite(p.value) for p in c.points)]
        if curves:
            kept.append(chart._replace(curves=curves))
    return kept


def lines_of(rows: Rows, step: int | None) -> list[Line]:
    """Return each measure's first value, and its last up to `step`."""
    rows = [row for row in rows if step is None or int(row["step"]) <= step]
    lines = []
    for measure in MEASURES:
        for key, label in measure.keys.items() if measure.in_table else ():
            values = [Value(point.value, point.step) for point in points_of(rows, key)]
            if values:
                before = values[0] if len(values) > 1 else None
                lines.append(Line(measure, label, key, before, values[-1]))
    return lines


def lines_of_grids(grids: Sequence[Sequence[Grid]]) -> list[Line]:
    """Return the measures of a few images' grids; the first is "before" if there are two."""
    states = [_means(state) for state in zip(*grids, strict=True)]
    lines = []
    for measure in MEASURES:
        shown = [key for key in measure.keys if math.isfinite(states[-1].get(key, math.nan))]
        for key in shown:
            before = Value(states[0].get(key, math.nan)) if len(states) > 1 else None
            where = "images below" if len(shown) == 1 else measure.keys[key]
            lines.append(Line(measure, where, key, before, Value(states[-1][key])))
    return lines


def _means(grids: Sequence[Grid]) -> dict[str, float]:
    """Return the mean of each measure over the images that have it."""
    values: dict[str, list[float]] = {}
    for grid in grids:
        for key, value in grid.measured.items():
            values.setdefault(key, []).append(value)
    return {key: sum(found) / len(found) for key, found in values.items()}


def table_of(lines: Sequence[Line], step: int | None) -> Table:
    """Return the table of one run: before, after (`step`, if it is known), change."""
    rows = []
    for line in lines:
        before, after, percent = line.before, line.after, line.measure.percent
        values, notes, change = ["–"], [""], None
        if before is not None:
            values, notes = [number(before.number, percent)], [_note(before.step, (0, 1))]
            change = after.number - before.number
        values.append(number(after.number, percent))
        notes.append(_note(after.step, (step,)))
        rows.append(Row(line, values, notes, *_difference(line, change, ("better", "worse"))))
    head = "after" if step is None else f"after {step:,} steps"
    return Table(["before", head, "change"], rows)


def table_of_pair(names: tuple[str, str], run: Sequence[Line], baseline: Sequence[Line]) -> Table:
    """Return the table of two runs: the baseline's last value, the run's, and the difference.

    A measure that one of them lacks is shown with the other's value alone.
    """
    ours, theirs = ({(line.key, line.label): line for line in one} for one in (run, baseline))
    order = [key for measure in MEASURES for key in measure.keys]
    rows = []
    for key in sorted(dict.fromkeys([*ours, *theirs]), key=lambda key: order.index(key[0])):
        both = [one[key] for one in (theirs, ours) if key in one]
        line, percent = both[-1], both[-1].measure.percent
        befores = {number(one.before.number, percent) for one in both if one.before is not None}
        values = [" or ".join(sorted(befores)) or "–"]
        values += [
            number(one[key].after.number, percent) if key in one else "–" for one in (theirs, ours)
        ]
        change = both[1].after.number - both[0].after.number if len(both) == 2 else None
        # One training batch's value says nothing about two runs.
        words = (f"{names[0]} better", f"{names[0]} worse")
        words = ("", "") if line.label == "training" else words
        rows.append(Row(line, values, ["", "", ""], *_difference(line, change, words)))
    return Table(["before", names[1], names[0], "difference"], rows)


def number(value: float, percent: bool = False) -> str:
    """Write a value for people: three or four digits that count."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    if percent:
        return f"{100 * value:.1f}\u00a0%"
    if value and (abs(value) < 1e-3 or abs(value) >= 1e5):
        return f"{value:.2e}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"


def _note(step: int | None, expected: Sequence[int | None]) -> str:
    return "" if step is None or step in expected else f"at step {step:,}"


def _difference(line: Line, change: float | None, words: tuple[str, str]) -> tuple[str, str, bool]:
    """Return a difference as text, its verdict in a word, and whether it is a good one."""
    if change is None:
        return "–", "", False
    if line.measure.percent:
        shown = f"{100 * change:+.1f} points"
    else:
        shown = ("+" if change >= 0 else "-") + number(abs(change))
    good = change * line.measure.better > 0
    verdict = ""
    if line.measure.better and change and math.isfinite(change):
        verdict = words[0] if good else words[1]
    return shown.replace("-", "−"), verdict, good
