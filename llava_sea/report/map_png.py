"""Figure 2's map as a PNG, for slides and papers: the panels of the page, drawn on white."""

from __future__ import annotations

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llava_sea.report.map_html import caption
from llava_sea.report.pngs import COLOURS, DPI, png_of
from llava_sea.report.token_map import TokenMap

GROUPS = ("#0072b2", "#d55e00", "#00825f", "#b85f95", "#7d6200", "#3d94c9")
MARKERS = ("o", "s", "^", "D", "v", "_")


def map_png(tokens: TokenMap) -> bytes:
    """Draw all panels in a row, the caption below."""
    count = 1 + len(tokens.sources)
    figure = Figure(figsize=(4.4 * count, 5.6), dpi=DPI, layout="constrained")
    axes = figure.subplots(1, count)
    for ax in axes:
        ax.set(xlim=(-0.03, 1.03), ylim=(1.03, -0.03), xticks=[], yticks=[], aspect="equal")
        ax.scatter(
            tokens.words_T2[:, 0],
            tokens.words_T2[:, 1],
            s=12,
            marker="x",
            lw=0.6,
            c="0.45",
            label="words",
        )
    axes[0].set_title("all together", fontsize=9.5, loc="left")
    for i, source in enumerate(tokens.sources):
        axes[0].scatter(
            source.places_N2[:, 0],
            source.places_N2[:, 1],
            s=9,
            marker=MARKERS[i],
            c=COLOURS[1 - i],
            lw=0,
            label=source.name,
        )
        axes[i + 1].set_title(source.name, fontsize=9.5, loc="left", parse_math=False)
        _groups(axes[i + 1], tokens, i)
    for ax in axes:
        ax.legend(fontsize=7.5, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 0))
    figure.supxlabel(textwrap.fill(caption(tokens), 70 * count), fontsize=7.5, parse_math=False)
    return png_of(figure)


def _groups(ax: Axes, tokens: TokenMap, number: int) -> None:
    x_N, y_N = tokens.sources[number].places_N2.T
    shown = tokens.shown_groups
    rest = [i for i, group in enumerate(tokens.groups) if group not in shown]
    ax.scatter(x_N[rest], y_N[rest], s=8, c="0.75", lw=0)
    for group, name in enumerate(shown):
        own = [i for i, of in enumerate(tokens.groups) if of == name]
        ax.scatter(
            x_N[own], y_N[own], s=14, marker=MARKERS[group], c=GROUPS[group], lw=1, label=name
        )
