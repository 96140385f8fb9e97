"""A measure over the steps as a small SVG chart; its colours are the page's, light or dark.

Many points are averaged in equal blocks before they are drawn; a value that is no number breaks the
line instead of hiding. Sizes are in pixels of a 340 x 190 drawing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from matplotlib.ticker import MaxNLocator

from llava_sea.report.measures import Chart, Point, number

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 52, 10, 26
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


def chart_svg(chart: Chart, marked_step: int | None = None) -> str:
    """Draw a chart.

    Args:
        chart: a measure with at least one finite value.
        marked_step: a step to mark with an upright line, the checkpoint's.
    """
    curves = [thin(curve.points) for curve in chart.curves]
    finite = [p for points in curves for p in points if math.isfinite(p.value)]
    percent = chart.measure.percent
    ticks_y = ticks([p.value for p in finite], 4, from_zero=chart.measure.from_zero)
    ticks_x = ticks([float(p.step) for p in finite], 4, whole=True)
    x = Scale(min(p.step for p in finite), ticks_end(finite), LEFT, WIDTH - RIGHT)
    y = Scale(ticks_y[0], ticks_y[-1], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y(t) + 3.5:.1f}" text-anchor="end">'
        f"{_tick(t, percent)}</text>"
        for t in ticks_y
    ]
    parts += [
        f'<text class="tick" x="{x(t):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{t:,.0f}</text>'
        for t in ticks_x
        if x.low <= t <= x.high
    ]
    if marked_step is not None and x.low <= marked_step < x.high:
        parts.append(
            f'<line class="mark" x1="{x(marked_step):.1f}" x2="{x(marked_step):.1f}" '
            f'y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        )
    ends = spread([y(_last(points).value) if _last(points) else TOP for points in curves])
    for index, (points, end) in enumerate(zip(curves, ends, strict=True)):
        parts.append(_line(points, index, x, y))
        if last := _last(points):
            parts.append(
                f'<text class="end s{index}" x="{WIDTH - RIGHT + 6}" y="{end + 3.5:.1f}">'
                f"{number(last.value, percent)}</text>"
            )
    title = escape(f"{chart.measure.name} over the steps of training")
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
    return [
        Point(part[-1].step, sum(point.value for point in part) / len(part)) for part in parts
    ]


def ticks(
    values: Sequence[float], count: int, *, from_zero: bool = False, whole: bool = False
) -> list[float]:
    """Return round numbers, two at least, that enclose the values."""
    low, high = min(values), max(values)
    if from_zero:
        low, high = min(0.0, low), max(0.0, high)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):
        pad = abs(high) * 0.1 or 1.0
        low, high = low - (0 if from_zero and low == 0 else pad), high + pad
    locator = MaxNLocator(count, integer=whole, steps=[1, 2, 2.5, 5, 10])
    return [float(t) for t in locator.tick_values(low, high)]


def ticks_end(points: Sequence[Point]) -> float:
    """Return the last step, which must lie beyond the first."""
    first, last = min(p.step for p in points), max(p.step for p in points)
    return float(max(last, first + 1))


def spread(places: Sequence[float], apart: float = 12.0) -> list[float]:
    """Move labels that would lie on each other apart, in their order."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    for before, after in zip(order, order[1:], strict=False):
        moved[after] = max(moved[after], moved[before] + apart)
    return moved


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
