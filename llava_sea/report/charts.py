"""The report's charts and maps by matplotlib: SVG in the page's colours, or PNG on white.

Every figure is drawn in the page's light colours; `svg` writes each of them as the style sheet's
variable, so that the reader's light or dark holds. Sizes are in pixels of the page, which are
matplotlib's points.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from collections.abc import Sequence
from importlib.resources import files
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from llava_sea.report.grid import Example, Grid, letter_size, outline, wrap
from llava_sea.report.measures import Chart, Curve, Point, number

if TYPE_CHECKING:
    from llava_sea.report.token_map import Floats, TokenMap

STYLE = (files("llava_sea.report") / "style.css").read_text(encoding="utf-8")
COLOURS = dict(re.findall(r"--(\w+): (#\w{6})", STYLE.split("@media")[0]))
"""The light colours by name."""

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 52, 10, 26
NAMED_RIGHT = 112
"""The margin where the curves' names stand at their ends."""
LONGEST_NAME = 15
MAX_POINTS, MAX_MARKED = 400, 30
"""More points are averaged in equal blocks; up to so many get a dot each."""
MAP, MAP_EDGE = 380, 14
PNG_DPI = 160
MARKS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"), ("*", "★"))
"""matplotlib's marker of a kind of point, and the letter that is like it."""
RC: dict[Any, Any] = {
    "text.parse_math": False,
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "grid.color": COLOURS["rule"],
    "grid.linewidth": 1,
    "legend.frameon": False,
    "lines.markeredgewidth": 0,
    "lines.markersize": 5.2,
    "svg.fonttype": "none",
    **{f"axes.spines.{side}": False for side in ("left", "right", "top", "bottom")},
    **{f"{axis}tick.labelcolor": COLOURS["soft"] for axis in "xy"},
    **{f"{axis}tick.major.size": 0 for axis in "xy"},
    **{f"{axis}tick.major.pad": 6 for axis in "xy"},
}
"""matplotlib's settings for all figures."""
HOVER = "hover:"
"""Begins the id of a group of the drawing whose rest is shown when the group is pointed at."""


def svg(figure: Figure, kind: str, title: str) -> Markup:
    """Write a figure as an SVG element of class `kind`; `title` tells those who can't see it."""
    # The salt gives the ids of markers: the same for the same figure, other ones for another.
    with rc_context({**RC, "svg.hashsalt": title}):
        text = _save(figure, format="svg", transparent=True).decode()
    text = re.split(r"</style>\s*</defs>", text)[1]
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    text = text.replace("'DejaVu Sans'", "var(--sans)")
    text = re.sub(rf'<g id="{HOVER}(.*?)">', r"<g><title>\1</title>", text)
    text = re.sub(r' id="[a-z0-9.]+_\d+"|<!--.*?-->', "", text)
    text = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), text)
    text = re.sub(r"\s*\n\s*", "\n", text)
    width, height = (round(72 * size) for size in figure.get_size_inches())
    return Markup(
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}">{text}'
    )


@rc_context(RC)
def png(figure: Figure, title: str = "") -> bytes:
    """Write a figure as a PNG, with a title and a key where its curves have names."""
    for ax in figure.axes if title else ():
        ax.set_title(textwrap.fill(title, 50))
        if len(ax.get_legend_handles_labels()[0]) > 1:
            ax.legend(loc="upper left", bbox_to_anchor=(0, -0.1), ncols=3)
    drawn = Image.open(io.BytesIO(_save(figure, format="png", dpi=PNG_DPI, bbox_inches="tight")))
    buffer = io.BytesIO()
    drawn.convert("RGB").quantize(256).save(buffer, format="PNG", optimize=True)  # a third as large
    return buffer.getvalue()


def _save(figure: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The page has the letters that matplotlib's font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, **options)
    return buffer.getvalue()


@rc_context(RC)
def chart_figure(chart: Chart, marked_step: int | None = None, *, named: bool = False) -> Figure:
    """Draw a chart; a value that is no number breaks its line.

    Args:
        chart: a measure with at least one finite value.
        marked_step: a step to mark with an upright line, the checkpoint's.
        named: write each curve's name at its end, beside its last value.
    """
    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72))
    width, height = WIDTH - LEFT - (NAMED_RIGHT if named else RIGHT), HEIGHT - TOP - BOTTOM
    place = LEFT / WIDTH, BOTTOM / HEIGHT, width / WIDTH, height / HEIGHT
    ax = figure.add_axes(place)
    curves = [curve._replace(points=thin(curve.points)) for curve in chart.curves]
    steps = [p.step for curve in curves for p in curve.points if math.isfinite(p.value)]
    first, last = min(steps), max(steps)
    for order, curve in enumerate(curves):
        _draw_curve(ax, curve, zorder=3 - order / 10)  # the first lies on top
    ax.margins(y=0.06)
    ax.set_xlim(first, max(last, first + 1))
    if chart.measure.from_zero or chart.measure.percent:
        ax.set_ylim(bottom=0)
    low, high = ax.get_ylim()
    if marked_step is not None and first <= marked_step < last:
        ax.axvline(marked_step, color=COLOURS["soft"], lw=1, ls=(0, (2, 3)), clip_on=False)
    _label_axes(ax, chart.measure.percent)
    ax.text(
        1 + 10 / width, -6 / height, "step", transform=ax.transAxes, va="top", c=COLOURS["soft"]
    )
    ends = [[p.value for p in curve.points if math.isfinite(p.value)][-1] for curve in curves]
    apart, room = (26.0, 14.0) if named else (12.0, 0.0)
    below = spread([height * (high - end) / (high - low) for end in ends], apart, height - room)
    for curve, end, down in zip(curves, ends, below, strict=True):
        look = dict(transform=ax.transAxes, va="center", color=COLOURS[f"s{curve.colour}"])
        x, y = 1 + 6 / width, 1 - down / height
        ax.text(x, y, number(end, chart.measure.percent), weight="bold", **look)
        if named:
            long = len(curve.label) > LONGEST_NAME
            name = curve.label[: LONGEST_NAME - 1] + "…" if long else curve.label
            ax.text(x, y - 12 / height, name, **look)
    return figure


def _draw_curve(ax: Axes, curve: Curve, zorder: float) -> None:
    steps, values = zip(*curve.points, strict=True)
    look = dict(color=COLOURS[f"s{curve.colour}"], clip_on=False, zorder=zorder)
    ax.plot(steps, values, lw=1.7 if curve.colour else 2.2, label=curve.label, **look)
    solid = [False, *map(math.isfinite, values), False]
    for i, (step, value) in enumerate(curve.points, start=1):
        alone = not (solid[i - 1] or solid[i + 1])
        if solid[i] and (alone or len(values) <= MAX_MARKED):
            gid = f"{HOVER}step {step:,}: {value:.5g}"
            ax.plot(step, value, "o", ms=4.8, gid=gid, **look)


def _label_axes(ax: Axes, percent: bool) -> None:
    def text(value: float, _: object) -> str:
        return f"{100 * value:g} %" if percent else f"{value + 0.0:,.6g}"

    rounded: dict[str, Any] = dict(nbins=5, steps=[1, 2, 2.5, 5, 10])
    ax.yaxis.set_major_locator(MaxNLocator(**rounded))
    ax.xaxis.set_major_locator(MaxNLocator(**rounded, integer=True))
    ax.yaxis.set_major_formatter(FuncFormatter(text))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    for line in ax.get_ygridlines():
        line.set_clip_on(False)


def thin(points: Sequence[Point], most: int = MAX_POINTS) -> list[Point]:
    """Average neighbours, so that at most `most` points are left."""
    block = max(1, -(-len(points) // most))
    parts = [points[i : i + block] for i in range(0, len(points), block)]
    return [Point(part[-1].step, sum(p.value for p in part) / len(part)) for part in parts]


def spread(places: Sequence[float], apart: float, lowest: float = math.inf) -> list[float]:
    """Move labels' heights, counted downwards, at least `apart` and none below `lowest`."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + apart)
    for place in reversed(order):
        moved[place] = min(moved[place], lowest)
        lowest = min(lowest, moved[place]) - apart
    return moved


@rc_context(RC)
def map_figure(tokens: TokenMap, which: int | None = None) -> Figure:
    """Draw the map of figure 2: one projector's visual tokens by group, or those of all."""
    figure = Figure(figsize=(MAP / 72, MAP / 72))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.axis("off")
    edge = MAP_EDGE / (MAP - 2 * MAP_EDGE)
    ax.set(xlim=(-edge, 1 + edge), ylim=(1 + edge, -edge))
    word = dict(color=COLOURS["word"], mew=0.8, ms=4.4, clip_on=False)
    ax.plot(*tokens.words_T2.T, "x", label="words", **word)
    if which is None:
        for i, source in enumerate(tokens.sources):
            _draw_points(ax, source.places_N2, i, f"s{1 - i}", source.name, alpha=0.6)
        return figure
    places_N2, shown = tokens.sources[which].places_N2, tokens.shown_groups
    rest_N = np.array([group not in shown for group in tokens.groups], dtype=bool)
    # Without groups the points keep the projector's own look.
    look = (0, "rest") if shown else (which, f"s{1 - which}")
    _draw_points(ax, places_N2[rest_N], *look, "anything else")
    for i, name in enumerate(shown):
        own_N = np.array([group == name for group in tokens.groups], dtype=bool)
        _draw_points(ax, places_N2[own_N], i, f"g{i}", name)
    _draw_names(ax, tokens)
    return figure


def _draw_points(
    ax: Axes, places_N2: Floats, mark: int, colour: str, name: str, alpha: float | None = None
) -> None:
    look = dict(color=COLOURS[colour], alpha=alpha, clip_on=False)
    ax.plot(*places_N2.T, MARKS[mark][0], label=name, gid=HOVER + name, **look)


def _draw_names(ax: Axes, tokens: TokenMap) -> None:
    """Write the shown groups' words where these words' own embeddings lie."""
    named = [(i, name) for i, name in enumerate(tokens.shown_groups) if name in tokens.words]
    places = [tokens.words_T2[tokens.words.index(name)].tolist() for _, name in named]
    pixel = 1 / (MAP - 2 * MAP_EDGE)
    # Close words are written below each other; the marks stay where the words lie.
    heights = spread([y for _, y in places], 15 * pixel, 1.0)
    for (i, name), (x, y), height in zip(named, places, heights, strict=True):
        colour, ink = COLOURS[f"g{i}"], COLOURS["ink"]
        ax.plot(x, y, MARKS[i][0], color=colour, ms=9, mec=ink, mew=1.3, clip_on=False)
        side, ha = (-8, "right") if x > 1 - 56 * pixel else (8, "left")
        look = dict(color=colour, weight="bold", size=15)
        ax.text(x + side * pixel, height, name, ha=ha, va="center", **look)


@rc_context(RC)
def example_figure(example: Example) -> Figure:
    """Draw an image with its caption and its grids, for a PNG; the page has SVG of its own."""
    panel = max(3.6, 0.46 * example.grids[0].columns)
    count = 1 + len(example.grids)
    figure = Figure(figsize=(panel * count, panel + 0.75), layout="constrained")
    axes = figure.subplots(1, count)
    axes[0].imshow(example.image)
    axes[0].set_title("the image, as the model sees it")
    axes[0].axis("off")
    for ax, grid in zip(axes[1:], example.grids, strict=True):
        ax.set_title("{}: {} of {} right".format(grid.label, *grid.right()))
        ax.imshow(example.image, extent=(0, grid.columns, grid.rows, 0))
        ax.axis("off")
        _draw_grid(ax, grid, panel * 72 / grid.columns)
    figure.suptitle(textwrap.fill(example.caption, int(panel * count * 11), max_lines=3))
    return figure


def _draw_grid(ax: Axes, grid: Grid, patch_size: float) -> None:
    for i, cell in enumerate(grid.cells):
        y, x = divmod(i, grid.columns)
        face, alpha, ink = ("#f3f6e4", 0.92, "#16301c") if cell.right else ("#0c0e12", 0.6, "white")
        ax.add_patch(Rectangle((x, y), 1, 1, facecolor=face, alpha=alpha, lw=0))
        ax.add_patch(Rectangle((x, y), 1, 1, fill=False, edgecolor="white", lw=0.3, alpha=0.6))
        lines = wrap(cell.nearest[0].word)
        size = letter_size(lines, bold=cell.right) / 100 * patch_size * 0.95
        look: dict[str, Any] = dict(color=ink, size=size, weight="bold" if cell.right else "normal")
        look |= dict(ha="center", va="center", linespacing=1.0)
        ax.text(x + 0.5, y + (0.56 if cell.right else 0.5), "\n".join(lines), **look)
        if cell.right:
            ax.plot((x + 0.77, x + 0.83, x + 0.94), (y + 0.13, y + 0.2, y + 0.06), color=ink, lw=1)
    for colour, width in (("black", 2.6), ("#ff9d2e", 1.2)):
        for ends in outline(grid):
            ax.plot(*zip(*ends, strict=True), color=colour, lw=width, solid_capstyle="projecting")
