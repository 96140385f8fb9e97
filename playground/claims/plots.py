"""The page's plots as SVG: means and gains with their intervals, language kept, stage 1's curves.

Colours are the page's, by class. Sizes are in pixels of a 380 pixels wide drawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from matplotlib.ticker import MaxNLocator

from playground.claims.options import NONE
from playground.claims.plan import BASELINE
from playground.claims.tables import title_of

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 380, 44, 12, 10, 26
ROW, GAP, NAMES = 15, 12, 132
CURVES = (
    ("caption_loss", "Caption loss (eq. 12)"),
    ("tacs", "TACS (eq. 14)"),
    ("nearest_objects", "Nearest word (eq. 4) right on objects, share"),
    ("answers", "Zero-shot answers right, share"),
)
Cell = Mapping[str, Any]


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


def value_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the upright axis: the values and a little air; all alike, more of it."""
    low, high = min(values), max(values)
    air = 0.06 * (high - low)
    if air <= 1e-9 * max(abs(low), abs(high)):
        air = 0.1 * abs(high) or 1.0
    return low - air, high + air


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Return three or four round numbers between two."""
    found = MaxNLocator(5, integer=whole, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    slack = 1e-9 * (high - low)
    return [float(t) + 0.0 for t in found if low - slack <= t <= high + slack]


def key_html(arms: Sequence[str]) -> str:
    """Name the arms beside their colours."""
    keys = "".join(
        f'<i class="key"><svg viewBox="0 0 12 12"><circle class="a-{arm}" cx="6" cy="6" r="4"/>'
        f"</svg> {escape(title_of(arm).replace('`', ''))}</i>"
        for arm in arms
    )
    return f'<p class="keys">{keys}</p>'


def means_svg(summary: Mapping[str, Any]) -> str:
    """Draw each cell's mean of the eight."""
    rows = [(cell, cell["mean"]) for cell in summary["cells"]]
    return _figure("Mean of the eight, points", _intervals(rows, with_zero=False))


def gains_svg(summary: Mapping[str, Any]) -> str:
    """Draw each cell's mean relative gain; nothing where there is none."""
    rows = [
        (cell, cell["gain"])
        for cell in summary["cells"]
        if cell["arm"] not in (BASELINE, NONE) and cell["gain"]["mean"] is not None
    ]
    if not rows:
        return ""
    return _figure("Mean relative gain over plain LLaVA, %", _intervals(rows, with_zero=True))


def language_svg(summary: Mapping[str, Any]) -> str:
    """Draw each LLM's answers without a picture before, in and after stage 2, by arm."""
    figures = []
    for llm in summary["llms"]:
        cells = [cell for cell in summary["cells"] if cell["llm"] == llm]
        longest = max((cell["steps"] for cell in cells), default=0)
        lines = []
        for cell in cells:
            if cell["steps"] in (longest, 0):
                found = cell["language"]["document"]
                values = [found[when]["mean"] for when in ("before", "middle", "after")]
                lines.append((cell["arm"], [0.0, 0.5, 1.0], values))
        if lines:
            names = {0.0: "before", 0.5: "middle", 1.0: "after stage 2"}
            title = f"{llm}, {longest} steps of stage 1: right without a picture, %"
            figures.append(_figure(title, _lines(lines, names)))
    return "".join(figures)


def curves_svg(summary: Mapping[str, Any]) -> str:
    """Draw stage 1's measures over its steps, for each LLM's longest stage 1."""
    figures = []
    for llm in summary["llms"]:
        cells = [c for c in summary["cells"] if c["llm"] == llm and c["arm"] != NONE]
        longest = max((cell["steps"] for cell in cells), default=0)
        shown = [cell["stage1"] for cell in cells if cell["steps"] == longest]
        arms = [cell["arm"] for cell in cells if cell["steps"] == longest]
        for name, title in CURVES if shown else ():
            lines = [
                (arm, [float(s) for s in one["steps"]], one["curve"][name])
                for arm, one in zip(arms, shown, strict=True)
            ]
            caption = f"{llm}: {title}, over the {longest} steps of stage 1"
            figures.append(_figure(caption, _lines(lines, None)))
    return "".join(figures)


def _figure(title: str, svg: str) -> str:
    return f"<figure><figcaption><b>{escape(title)}</b></figcaption>{svg}</figure>"


def _intervals(rows: Sequence[tuple[Cell, Mapping[str, Any]]], *, with_zero: bool) -> str:
    """Draw a row for each cell: a dot and its interval; a name before each LLM and length."""
    ends = [0.0] if with_zero else []
    for _, found in rows:
        half = found["half"] or 0.0
        ends += [found["mean"] - half, found["mean"] + half]
    low, high = value_range(ends)
    x = Scale(low, high, NAMES, WIDTH - RIGHT)
    parts: list[str] = []
    y, group = float(TOP), None
    for cell, found in rows:
        here = (cell["llm"], cell["steps"])
        if here != group:
            y += GAP if group else 0
            length = f"{cell['steps']} steps" if cell["steps"] else title_of(NONE)
            label = f"{cell['llm']}, {length}"
            parts.append(f'<text x="0" y="{y + 8:.0f}">{escape(label)}</text>')
            group = here
        mean, half = found["mean"], found["half"] or 0.0
        spread = "" if found["half"] is None else f" ± {half:.2f}"
        hint = f"{title_of(cell['arm'])}: {mean:.2f}{spread}"
        parts.append(
            f'<g class="a-{cell["arm"]}"><title>{escape(hint)}</title>'
            f'<line class="bar" x1="{x(mean - half):.1f}" x2="{x(mean + half):.1f}" '
            f'y1="{y + 4:.1f}" y2="{y + 4:.1f}"/>'
            f'<circle cx="{x(mean):.1f}" cy="{y + 4:.1f}" r="3.2"/></g>'
        )
        y += ROW
    bottom = y + 4
    grid = [
        f'<line class="{"zero" if t == 0 and with_zero else "rule"}" x1="{x(t):.1f}" '
        f'x2="{x(t):.1f}" y1="{TOP - 6}" y2="{bottom:.0f}"/>'
        f'<text class="tick" x="{x(t):.1f}" y="{bottom + 14:.0f}" text-anchor="middle">{t:g}</text>'
        for t in ticks(low, high)
    ]
    return _svg(bottom + 18, grid + parts)


def _lines(
    lines: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    names: Mapping[float, str] | None,
) -> str:
    """Draw a line for each arm; `names` writes words on the axis instead of numbers."""
    height = 190
    low, high = value_range([v for _, _, values in lines for v in values])
    places = [p for _, steps, _ in lines for p in steps]
    x = Scale(min(places), max(max(places), min(places) + 1e-9), LEFT, WIDTH - RIGHT - 20)
    y = Scale(low, high, height - BOTTOM, TOP)
    parts = [
        f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y(t) + 3.5:.1f}" text-anchor="end">{t:g}</text>'
        for t in ticks(low, high)
    ]
    marks = names or {t: f"{t:g}" for t in ticks(x.low, x.high, whole=True)}
    parts += [
        f'<text class="tick" x="{x(place):.1f}" y="{height - 8}" text-anchor="middle">'
        f"{escape(name)}</text>"
        for place, name in marks.items()
    ]
    for arm, steps, values in lines:
        points = [(x(p), y(v)) for p, v in zip(steps, values, strict=True)]
        drawn = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(f'<polyline class="a-{arm}" style="fill:none" points="{drawn}"/>')
        parts += [
            f'<circle class="a-{arm}" cx="{px:.1f}" cy="{py:.1f}" r="2.2">'
            f"<title>{escape(title_of(arm))}: {value:.4g}</title></circle>"
            for (px, py), value in zip(points, values, strict=True)
        ]
    return _svg(height, parts)


def _svg(height: float, parts: Sequence[str]) -> str:
    inside = "\n".join(parts)
    return f'<svg class="plot" viewBox="0 0 {WIDTH} {height:.0f}" role="img">{inside}</svg>'
