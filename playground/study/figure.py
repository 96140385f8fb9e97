"""The picture of the study: each measure over the steps, for each LLM, a line for each arm.

Lines are the runs of the longest stage 1, bands their 95 % intervals; dots with bars are the ends
of the shorter runs, which have schedules of their own. Drawn twice, for light and for dark pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from playground.study.arms import ARMS
from playground.study.results import MEASURES, Measure

SHOWN = ("caption_loss", "answers", "nearest_objects", "tacs")
LIGHT = {
    "paper": "#fdfdfb", "ink": "#1d1f23", "soft": "#5c616b", "rule": "#d9dade",
    "plain": "#5c616b", "sea-paper": "#b8322a", "sea-paper-sign": "#c98a12",
    "sea-best": "#2458a6", "sea-true": "#3b7d3a", "warm-best": "#8a3fa8",
}  # fmt: skip
DARK = {
    "paper": "#16181c", "ink": "#e6e6e3", "soft": "#a0a5af", "rule": "#363a42",
    "plain": "#a0a5af", "sea-paper": "#f0806f", "sea-paper-sign": "#ecc05a",
    "sea-best": "#7fb0f5", "sea-true": "#83cc80", "warm-best": "#cf9bea",
}  # fmt: skip
DASHES: dict[str, Any] = {"plain": "-", "sea-true": (0, (4, 2))}
FILES = ("study.png", "study.svg", "study-dark.png", "study-dark.svg")


def draw_study(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the picture as PNG and SVG, light and dark.

    Args:
        results: what `collect` returned.
        folder: gets `FILES`.

    Returns:
        The files.
    """
    paths = []
    # Text stays text, and the same numbers give the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "study", "font.size": 9}):
        for name, colours in (("study", LIGHT), ("study-dark", DARK)):
            figure = _draw(results, colours)
            for suffix in ("png", "svg"):
                path = folder / f"{name}.{suffix}"
                metadata = {"Date": None} if suffix == "svg" else {}
                figure.savefig(path, dpi=110, facecolor=colours["paper"], metadata=metadata)
                paths.append(path)
    return paths


def _draw(results: Mapping[str, Any], colours: Mapping[str, str]) -> Figure:
    llms = results["llms"]
    measures = [m for key in SHOWN for m in MEASURES if m.key == key]
    figure = Figure(figsize=(3.1 * len(llms) + 0.9, 1.8 * len(measures) + 0.8))
    axes = figure.subplots(len(measures), len(llms), sharex=True, sharey="row", squeeze=False)
    for row, measure in enumerate(measures):
        for column, llm in enumerate(llms):
            axis = axes[row][column]
            _style(axis, colours)
            _draw_panel(axis, results, llm, measure, colours)
            if row == 0:
                axis.set_title(llm, color=colours["ink"], fontsize=10, loc="left")
            if column == 0:
                unit = ", %" if measure.percent else ""
                axis.set_ylabel(measure.short + unit, color=colours["ink"])
            if row == len(measures) - 1:
                axis.set_xlabel("steps of stage 1", color=colours["ink"])
        axes[row][0].set_ylim(*_limits(results, measure))
    height = _add_legend(figure, results["arms"], colours, columns=2 * len(llms) - 1)
    figure.tight_layout(rect=(0, 0, 1, 1 - height / figure.get_figheight()))
    return figure


def _add_legend(
    figure: Figure, arms: Sequence[str], colours: Mapping[str, str], columns: int
) -> float:
    """Name the arms above the panels; return the height in inches that it takes."""
    handles = [
        Line2D(
            [], [], color=colours[arm], linestyle=DASHES.get(arm, "-"),
            label=ARMS[arm].title.replace("`", ""),
        )
        for arm in arms
    ]  # fmt: skip
    columns = min(columns, len(handles))
    figure.legend(
        handles=handles, loc="upper center", ncols=columns, frameon=False,
        labelcolor=colours["ink"], fontsize=9, columnspacing=1.4, handlelength=2.2,
    )  # fmt: skip
    return 0.15 + 0.2 * -(-len(handles) // columns)


def _limits(results: Mapping[str, Any], measure: Measure) -> tuple[float, float]:
    """Show all means but those of the first steps, beside which all else would look flat.

    A band that few seeds make very wide may leave the panel, too.
    """
    scale, first = 100.0 if measure.percent else 1.0, 0.08 * max(results["lengths"])
    means = [
        scale * mean
        for curve in (cell["curve"] for cell in results["cells"])
        for step, mean in zip(curve["steps"], curve[measure.key][0], strict=True)
        if step >= first
    ]
    margin = 0.12 * (max(means) - min(means)) or 1e-3
    return min(means) - margin, max(means) + margin


def _draw_panel(
    axis: Any, results: Mapping[str, Any], llm: str, measure: Measure, colours: Mapping[str, str]
) -> None:
    longest = max(results["lengths"])
    scale = 100.0 if measure.percent else 1.0
    for cell in results["cells"]:
        if cell["llm"] != llm:
            continue
        arm, curve = cell["arm"], cell["curve"]
        means, halves = curve[measure.key]
        values = [scale * mean for mean in means]
        spread = [scale * (half or 0.0) for half in halves]
        # The last point of the curve, as measured on the curve's scenes, also for shorter runs.
        if cell["steps"] < longest:
            axis.errorbar(
                curve["steps"][-1], values[-1], yerr=spread[-1], fmt="o", markersize=3.5,
                color=colours[arm], elinewidth=1, zorder=4,
            )  # fmt: skip
            continue
        axis.plot(
            curve["steps"], values, color=colours[arm], linestyle=DASHES.get(arm, "-"),
            linewidth=1.6, zorder=3,
        )  # fmt: skip
        low, high = zip(*((v - s, v + s) for v, s in zip(values, spread, strict=True)), strict=True)
        axis.fill_between(curve["steps"], low, high, color=colours[arm], alpha=0.13, linewidth=0)


def _style(axis: Any, colours: Mapping[str, str]) -> None:
    axis.set_facecolor(colours["paper"])
    axis.grid(axis="y", color=colours["rule"], linewidth=0.7)
    axis.tick_params(colors=colours["soft"], length=0)
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(colours["rule"])
