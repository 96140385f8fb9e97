"""The report's contents, filled into one HTML file that needs nothing else, `page.html`.

Every text of a user's file (captions, words, names, paths) is escaped by jinja2, or by `grid` and
`charts`, whose SVG comes in as finished markup.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from llava_sea.report.charts import MARKS, STYLE, chart_figure, example_figure, map_figure, png, svg
from llava_sea.report.grid import Cell, Example, Grid, Near, cell_svg, grid_svg, outline_svg
from llava_sea.report.measures import (
    IN_CAPTION,
    PRECISION,
    Chart,
    Line,
    number,
    table_of,
    table_of_pair,
)
from llava_sea.report.token_map import NEIGHBOURS, SEED, TokenMap

LARGE_GRID = 16
"""From so many columns on, grids stand one below the other over the page's whole width."""


@dataclass(frozen=True)
class Report:
    """All that the page says."""

    run_name: str
    kind: str
    """The training: "stage 1 with SEA", "stage 1, plain LLaVA"."""
    step: int | None
    lines: list[Line]
    """The measures of the run."""
    table_caption: str
    charts: list[Chart]
    examples: list[Example]
    num_words: int
    truth_known: bool
    with_sea: bool
    facts: list[tuple[str, str]]
    """The files and flags it was made from: name and value."""
    notes: Sequence[str] = ()
    names: tuple[str, str] | None = None
    """Of the run and of the baseline, which is shown on the left."""
    baseline_lines: Sequence[Line] = ()
    """The measures of the baseline."""
    token_map: TokenMap | None = None


def render(report: Report) -> str:
    """Return the whole page."""
    if report.names is None:
        table = table_of(report.lines, report.step)
    else:
        table = table_of_pair(report.names, report.lines, report.baseline_lines)
    template = _environment().get_template("page.html")
    return template.render(
        report=report,
        style=Markup(STYLE),
        table=table,
        precision=_pair(report, (PRECISION, IN_CAPTION)),
        objects=_pair(report, (f"{PRECISION}_objects",)),
        last_step=max((c.points[-1].step for one in report.charts for c in one.curves), default=0),
        samples=[
            cell_svg("red ball", True, "a right word"),
            cell_svg("table", False, "another word"),
            outline_svg(Grid("", 1, [Cell((Near("", 0.0, False),), is_object=True)])),
        ],
        marks=[letter for _, letter in MARKS],
        neighbours=NEIGHBOURS,
        seed=SEED,
        chart_svg=lambda chart: svg(
            _chart_figure(chart, report), "chart", f"{chart.name} over the steps of training"
        ),
        map_svg=lambda tokens, number, name: svg(
            map_figure(tokens, number), "map", f"Visual tokens and words: {name}"
        ),
    )


def panels(image: Image.Image, grids: Sequence[Grid]) -> Markup:
    """Return an image and its patches as the page shows them."""
    shared: Any = _environment().get_template("grid.html").module
    shown: Markup = shared.panels(image, grids, "image-1", "", caller=lambda grid: "")
    return shown


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("llava_sea.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.globals |= {"large": LARGE_GRID, "data_uri": data_uri, "grid_svg": grid_svg}
    return environment


def pngs(report: Report) -> dict[str, bytes]:
    """Draw the images, charts and maps for slides and papers; the keys are parts of file names."""
    found = {f"image_{i}": png(example_figure(e)) for i, e in enumerate(report.examples, start=1)}
    for i, chart in enumerate(report.charts, start=1):
        found[f"chart_{i}"] = png(_chart_figure(chart, report), chart.name)
    if (tokens := report.token_map) is not None:
        names = ["all together", *(source.name for source in tokens.sources)]
        for i, name in enumerate(names):
            found[f"map_{i + 1}"] = png(map_figure(tokens, i - 1 if i else None), name)
    return found


def _pair(report: Report, keys: Sequence[str]) -> tuple[Line, Line | None] | None:
    """Return the run's first measure of these keys, and the baseline's where there is one."""
    ours = next((line for line in report.lines if line.key in keys), None)
    theirs = next((line for line in report.baseline_lines if line.key in keys), None)
    if ours is None or (report.names and (theirs is None or theirs.key != ours.key)):
        return None
    return ours, theirs


def _chart_figure(chart: Chart, report: Report) -> Figure:
    return chart_figure(chart, report.step, named=report.names is not None)


def data_uri(image: Image.Image) -> str:
    """Write an image into an address."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
