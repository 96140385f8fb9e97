"""A measure over the steps as a small SVG chart; its colours are the page's, light or dark.

Many points are averaged in equal blocks before they are drawn; a value that is no number breaks the
line instead of hiding. Sizes are in pixels of a 340 x 190 drawing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

from matplotlib.ticker import MaxNLocator

from llava_sea.report.measures import Chart, Point, number

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 52, 10, 26
NAMED_RIGHT = 112
"""The margin where the curves' names stand at their ends."""
LONGEST_NAME = 15
MAX_POINTS = 400
MAX_MARKED = 30


class Scale(NamedTuple):
    """From values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return where a value lies."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def chart_svg(chart: Chart, marked_step: int | None = None, *, named: bool = False) -> str:
    """Draw a chart.

    Args:
        chart: a measure with at least one finite value.
        marked_step: a step to mark with an upright line, the checkpoint's.
        named: write each curve's name at its end, beside its last value.
    """
    right = WIDTH - (NAMED_RIGHT if named else RIGHT)
    curves = [thin(curve.points) for curve in chart.curves]
    finite = [p for points in curves for p in points if math.isfinite(p.value)]
    percent = chart.measure.percent
    first, last_step = min(p.step for p in finite), max(p.step for p in finite)
    x = Scale(first, max(last_step, first + 1), LEFT, right)
    low, high = value_range([p.value for p in finite], chart.measure.from_zero)
    y = Scale(low, high, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<line class="rule" x1="{LEFT}" x2="{right}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y(t) + 3.5:.1f}" text-anchor="end">'
        f"{_tick(t, percent)}</text>"
        for t in ticks(low, high)
    ]
    parts += [
        f'<text class="tick" x="{x(t):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{t:,.0f}</text>'
        for t in ticks(x.low, x.high, whole=True)
    ]
    parts.append(f'<text class="tick" x="{right + 10}" y="{HEIGHT - 8}">step</text>')
    if marked_step is not None and x.low <= marked_step < x.high:
        parts.append(
            f'<line class="mark" x1="{x(marked_step):.1f}" x2="{x(marked_step):.1f}" '
            f'y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        )
    lasts = [_last(points) for points in curves]
    apart, below = (26.0, 14) if named else (12.0, 0)
    places = [y(last.value) if last else TOP for last in lasts]
    ends = spread(places, apart, HEIGHT - BOTTOM - below)
    for index, points in reversed(list(enumerate(curves))):  # the first lies on top
        curve = chart.curves[index]
        parts.append(_line(points, curve.colour, x, y))
        if last := lasts[index]:
            name = _name(curve.label, right) if named else ""
            parts.append(
                f'<text class="end s{curve.colour}" x="{right + 6}" '
                f'y="{ends[index] + 3.5:.1f}">'
                f"{number(last.value, percent)}{name}</text>"
            )
    title = escape(" ".join([f"{chart.measure.name} over the steps of training", chart.label]))
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">'
        + "\n".join(parts)
        + "</svg>"
    )


def thin(points: Sequence[Point], most: int = MAX_POINTS) -> list[Point]:
    """Average neighbours, so that at most `most` points are left."""
    block = -(-len(points) // most)
    if block <= 1:
        return list(points)
    parts = [points[i : i + block] for i in range(0, len(points), block)]
    return [Point(part[-1].step, sum(point.value for point in part) / len(part)) for part in parts]


def value_range(values: Sequence[float], from_zero: bool) -> tuple[float, float]:
    """Return what the upright axis shows: the values and a little air; all alike, more of it."""
    low, high = min(values), max(values)
    if from_zero:
        low, high = min(0.0, low), max(0.0, high)
    air = 0.06 * (high - low)
    if air <= 1e-9 * max(abs(low), abs(high)):
        air = 0.1 * abs(high) or 1.0
    return low - (0.0 if from_zero and low == 0 else air), high + air


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Return three or four round numbers between two."""
    found = MaxNLocator(5, integer=whole, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    slack = 1e-9 * (high - low)
    return [float(t) + 0.0 for t in found if low - slack <= t <= high + slack]


def spread(places: Sequence[float], apart: float = 12.0, lowest: float = math.inf) -> list[float]:
    """Move labels that would lie on each other apart, in their order, none below `lowest`."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + apart)
    for place in reversed(order):
        moved[place] = min(moved[place], lowest)
        lowest = min(lowest, moved[place]) - apart
    return moved


def _name(label: str, right: float) -> str:
    short = label if len(label) <= LONGEST_NAME else label[: LONGEST_NAME - 1] + "…"
    return f'<tspan class="name" x="{right + 6}" dy="12">{escape(short)}</tspan>'


def _line(points: Sequence[Point], index: int, x: Scale, y: Scale) -> str:
    """Draw one curve; each stretch of finite values is a line of its own."""
    stretches: list[list[Point]] = [[]]
    for point in points:
        if math.isfinite(point.value):
            stretches[-1].append(point)
        elif stretches[-1]:
            stretches.append([])
    drawn = [
        f'<polyline class="line s{index}" points="'
        + " ".join(f"{x(p.step):.1f},{y(p.value):.1f}" for p in stretch)
        + '"/>'
        for stretch in stretches
        if len(stretch) > 1
    ]
    few = len(points) <= MAX_MARKED
    dots = [p for stretch in stretches for p in stretch if few or len(stretch) == 1]
    drawn += [
        f'<circle class="dot s{index}" cx="{x(p.step):.1f}" cy="{y(p.value):.1f}" r="2.4">'
        f"<title>step {p.step:,}: {p.value:.5g}</title></circle>"
        for p in dots
    ]
    return "".join(drawn)


def _last(points: Sequence[Point]) -> Point | None:
    return next((p for p in reversed(points) if math.isfinite(p.value)), None)


def _tick(value: float, percent: bool) -> str:
    return f"{100 * value:g} %" if percent else f"{value:,.6g}"
