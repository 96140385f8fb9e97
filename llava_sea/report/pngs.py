"""The report's pictures as PNG files, for slides and papers: one a held-out picture, one of curves.

The same contents as in the HTML, drawn by matplotlib on white.
"""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from llava_sea.report.cells import Grid, Picture
from llava_sea.report.grid_svg import letter_size, outline_lines, wrap
from llava_sea.report.measures import Chart

DPI = 160
LIGHT, DARK, INK, EDGE = "#f3f6e4", "#0c0e12", "#16301c", "#ff9d2e"
COLOURS = ("#2458a6", "#c2571a", "#6b4c9a", "#5d6b2c")


def picture_png(picture: Picture) -> bytes:
    """Draw a picture with its caption, and beside it what its patches say."""
    columns = picture.grids[0].columns
    panel = max(3.6, 0.46 * columns)
    count = 1 + len(picture.grids)
    figure = Figure(figsize=(panel * count, panel + 0.75), dpi=DPI, layout="constrained")
    axes = figure.subplots(1, count)
    _title(axes[0], "the picture, as the model sees it")
    axes[0].imshow(picture.image)
    axes[0].axis("off")
    for ax, grid in zip(axes[1:], picture.grids, strict=True):
        _grid(ax, picture, grid, panel)
    caption = textwrap.fill(picture.caption, int(panel * count * 11), max_lines=3)
    figure.suptitle(caption, fontsize=11, parse_math=False)
    return png_of(figure)


def curves_png(charts: Sequence[Chart], marked_step: int | None = None) -> bytes:
    """Draw all charts on one page."""
    columns = min(4, len(charts))
    rows = -(-len(charts) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.6 * rows), dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for ax in axes[len(charts) :]:
        ax.axis("off")
    for ax, chart in zip(axes, charts, strict=False):
        measure = chart.measure
        name = ", ".join(part for part in (measure.name, chart.label) if part)
        ax.set_title(name, fontsize=9.5, loc="left")
        for curve in chart.curves:
            colour = COLOURS[curve.colour]
            steps, values = zip(*curve.points, strict=True)
            few = len(steps) <= 30
            ax.plot(
                steps,
                values,
                color=colour,
                lw=1.3 if few else 0.9,
                marker="o" if few else None,
                ms=2.5,
                label=curve.label,
                zorder=3 - curve.colour,
            )
        if marked_step is not None:
            ax.axvline(marked_step, color="0.5", lw=0.8, ls=":")
        if measure.percent:
            ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        finite = any(math.isfinite(p.value) and p.value for c in chart.curves for p in c.points)
        if measure.from_zero and finite:
            ax.set_ylim(bottom=0)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", lw=0.4, color="0.88")
        if len(chart.curves) > 1 or chart.label:
            ax.legend(fontsize=7.5, frameon=False)
    return png_of(figure)


def _grid(ax: Axes, picture: Picture, grid: Grid, panel: float) -> None:
    _title(ax, f"{grid.label}: {grid.right} of {len(grid.cells)} right")
    ax.imshow(picture.image, extent=(0, grid.columns, grid.rows, 0))
    ax.axis("off")
    points = panel * 72 / grid.columns  # of one patch
    for number, cell in enumerate(grid.cells):
        y, x = divmod(number, grid.columns)
        face, alpha = (LIGHT, 0.92) if cell.right else (DARK, 0.6)
        ax.add_patch(Rectangle((x, y), 1, 1, facecolor=face, alpha=alpha, lw=0))
        edge = Rectangle((x, y), 1, 1, fill=False, edgecolor="white", lw=0.3, alpha=0.6)
        ax.add_patch(edge)
        lines = wrap(cell.word)
        ax.text(
            x + 0.5,
            y + (0.56 if cell.right else 0.5),
            "\n".join(lines),
            fontsize=letter_size(lines, bold=cell.right) / 100 * points * 0.95,
            color=INK if cell.right else "white",
            weight="bold" if cell.right else "normal",
            ha="center",
            va="center",
            linespacing=1.0,
            parse_math=False,
        )
        if cell.right:
            ax.plot((x + 0.77, x + 0.83, x + 0.94), (y + 0.13, y + 0.2, y + 0.06), color=INK, lw=1)
    for colour, width in (("black", 2.6), (EDGE, 1.2)):
        for ends in outline_lines(grid):
            ax.plot(*zip(*ends, strict=True), color=colour, lw=width, solid_capstyle="projecting")


def _title(ax: Axes, text: str) -> None:
    ax.set_title(text, fontsize=9.5, loc="left", parse_math=False)


def png_of(figure: Figure) -> bytes:
    """Write a figure as PNG."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The HTML has the letters that matplotlib's font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
