"""The measures of a run: their names, equations and keys in the log, in one table for all parts.

Any key may be absent (plain LLaVA logs nothing of SEA): what has no values is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from llava_sea.report.cells import Grid


class Key(NamedTuple):
    """A key of the log and what its line is called."""

    key: str
    label: str


@dataclass(frozen=True)
class Measure:
    """One quantity: what it is called, where it stands in the paper, which way is better."""

    name: str
    symbol: str
    equation: str
    keys: tuple[Key, ...]
    better: int = 0
    """-1 lower, +1 higher, 0 neither."""
    percent: bool = False
    from_zero: bool = False
    in_table: bool = True


MEASURES = (
    Measure(
        "Caption loss",
        "L_g",
        "12",
        (Key("eval_lm_loss", "held out"), Key("lm_loss", "training")),
        better=-1,
    ),
    Measure("Alignment loss", "L_a", "11", (Key("sea_loss", "training"),), better=-1),
    Measure(
        "Weight of the alignment loss",
        "λ",
        "13",
        (Key("sea_weight", "training"),),
        from_zero=True,
        in_table=False,
    ),
    Measure("Temperature", "τ", "11", (Key("temperature", "training"),)),
    Measure("Token alignment (TACS)", "TACS", "14", (Key("eval_tacs", "held out"),), better=1),
    Measure("Modality gap", "D", "5", (Key("eval_gap", "held out"),), better=-1),
    Measure("Gap between unit vectors", "", "5", (Key("eval_gap_unit", "held out"),), better=-1),
    Measure(
        "Mean length",
        "",
        "1, 2",
        (
            Key("eval_visual_length", "visual tokens"),
            Key("eval_embedding_length", "embedding rows"),
        ),
        from_zero=True,
    ),
    Measure(
        "Nearest word right",
        "",
        "4",
        (
            Key("eval_nearest_word_precision", "all patches"),
            Key("eval_nearest_word_precision_objects", "on objects"),
        ),
        better=1,
        percent=True,
        from_zero=True,
    ),
    Measure(
        "Nearest word in the caption",
        "",
        "4",
        (Key("eval_nearest_word_in_caption", "all patches"),),
        better=1,
        percent=True,
        from_zero=True,
    ),
)

PRECISION_KEYS = ("eval_nearest_word_precision", "eval_nearest_word_in_caption")


class Point(NamedTuple):
    """A value and the step it was logged at."""

    step: int
    value: float


class Curve(NamedTuple):
    """One line of a chart."""

    label: str
    points: list[Point]
    colour: int = 0
    """Which of the page's colours it has."""


@dataclass(frozen=True)
class Chart:
    """One measure over the steps."""

    measure: Measure
    curves: list[Curve]
    label: str = ""
    """What of the measure is shown, where that is the same for all curves: "held out"."""


@dataclass(frozen=True)
class Line:
    """One row of the table: a measure before and after."""

    measure: Measure
    label: str
    key: str
    before: float | None
    after: float
    before_step: int | None = None
    after_step: int | None = None


def points_of(rows: Sequence[dict[str, Any]], key: str) -> list[Point]:
    """Return a key's values by step; rows without it, or with no number in it, have none."""
    return [
        Point(int(row["step"]), float(row[key]))
        for row in rows
        if isinstance(row.get(key), (int, float))
    ]


def charts_of(rows: Sequence[dict[str, Any]]) -> list[Chart]:
    """Return a chart for every measure that the log holds finite values of."""
    rows = _with_plain_loss(rows)
    charts = []
    for measure in MEASURES:
        curves = [
            Curve(label, points_of(rows, key), colour)
            for colour, (key, label) in enumerate(measure.keys)
        ]
        curves = _with_values(curves)
        if curves:
            charts.append(Chart(measure, curves))
    return charts


def charts_of_pair(
    names: tuple[str, str], rows: tuple[Sequence[dict[str, Any]], Sequence[dict[str, Any]]]
) -> list[Chart]:
    """Return charts that hold a curve of each of two runs, one chart for each key of the log.

    Args:
        names: what the run and the baseline are called; their colours are 0 and 1.
        rows: their logs.
    """
    logs = [_with_plain_loss(log) for log in rows]
    charts = []
    for measure in MEASURES:
        for key, label in measure.keys:
            curves = _with_values(
                [
                    Curve(name, points_of(log, key), colour)
                    for colour, (name, log) in enumerate(zip(names, logs, strict=True))
                ]
            )
            if curves:
                charts.append(Chart(measure, curves, label))
    return charts


def lines_of(rows: Sequence[dict[str, Any]], step: int | None) -> list[Line]:
    """Return the table: each measure's first value, and its last up to `step`."""
    rows = [row for row in _with_plain_loss(rows) if step is None or int(row["step"]) <= step]
    lines = []
    for measure in MEASURES:
        for key, label in measure.keys if measure.in_table else ():
            points = points_of(rows, key)
            if points:
                first, last = points[0], points[-1]
                before = first.value if len(points) > 1 else None
                steps = first.step, last.step
                lines.append(Line(measure, label, key, before, last.value, *steps))
    return lines


def lines_of_pictures(grids: Sequence[Sequence[Grid]], truth_known: bool) -> list[Line]:
    """Return the table of what a few pictures alone tell, for a run that measured nothing.

    Args:
        grids: for each picture its grids; the first is "before" if there are two.
        truth_known: whether right means a true word, or a word of the caption.
    """
    precision = "eval_nearest_word_precision" if truth_known else "eval_nearest_word_in_caption"
    gaps = ("eval_gap", "eval_gap_unit", "eval_visual_length", "eval_embedding_length")
    values: dict[str, list[float]] = {key: [] for key in ("eval_tacs", *gaps, precision)}
    for state in zip(*grids, strict=True):
        scores = [grid.tacs for grid in state if grid.tacs is not None]
        values["eval_tacs"].append(sum(scores) / len(scores) if scores else math.nan)
        for place, key in enumerate(gaps):
            values[key].append(
                sum((grid.gap, *grid.beside_gap)[place] for grid in state) / len(state)
            )
        patches = sum(len(grid.cells) for grid in state)
        values[precision].append(sum(grid.right for grid in state) / patches)
    lines = []
    for measure in MEASURES:
        shown = [key for key in measure.keys if key.key in values]
        for key, label in shown:
            row, where = values[key], label if len(shown) > 1 else "pictures below"
            if math.isfinite(row[-1]):
                before = row[0] if len(row) > 1 else None
                lines.append(Line(measure, where, key, before, row[-1]))
    return lines


def has_alignment(rows: Sequence[dict[str, Any]]) -> bool:
    """Say whether the run was one with SEA."""
    return any("sea_loss" in row for row in rows)


def number(value: float, percent: bool = False) -> str:
    """Write a value for people: three or four digits that count."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    if percent:
        return f"{100 * value:.1f}\u00a0%"
    if value and (abs(value) < 1e-3 or abs(value) >= 1e5):
        return f"{value:.2e}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"


def _with_values(curves: Sequence[Curve]) -> list[Curve]:
    return [curve for curve in curves if any(math.isfinite(p.value) for p in curve.points)]


def _with_plain_loss(rows: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """A log of plain LLaVA's own trainer has the caption loss under the name of the loss."""
    if any("lm_loss" in row for row in rows):
        return rows
    return [{**row, "lm_loss": row["loss"]} if "loss" in row else row for row in rows]
