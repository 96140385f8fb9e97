"""The page: what the report holds, and the one place where HTML is put together.

Every text that comes from a user's file (captions, words, names, paths) is escaped here or in the
SVG modules; `Template` fills in what is finished HTML and reads nothing a second time.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from string import Template

from PIL import Image

from llava_sea.report.chart_svg import chart_svg
from llava_sea.report.explain import definitions, how_to_read
from llava_sea.report.grid_svg import UNIT, grid_svg
from llava_sea.report.measures import PRECISION_KEYS, Chart, Line, number
from llava_sea.report.reading import Grid, Picture
from llava_sea.report.style import STYLE
from llava_sea.report.table import symbol_html, table_html

LARGE_GRID = 16
"""From so many columns on, grids stand one below the other over the page's whole width."""

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
<p class="kicker">$kicker</p>
<h1>What the patches say</h1>
<p class="setting">$setting</p>
<div class="summary">
<div>
<p class="lead">$lead</p>
$notes
</div>
$table
</div>
<h2>How to read the pictures</h2>
$how_to_read
<h2>Held-out pictures</h2>
<p>$choice</p>
$pictures
$curves
<h2>Definitions</h2>
$definitions
<h2>What this was made from</h2>
<dl class="facts">
$facts
</dl>
</main>
</body>
</html>
""")

PICTURE = Template("""<article class="picture">
<header><h3>$caption</h3><div class="source">$source</div></header>
<div class="panels $layout">
<figure class="seen"><figcaption><b>As the model sees it</b></figcaption>
<svg viewBox="0 0 $width $height" role="img" aria-label="The picture">
<image id="$id" class="$rendering" width="$width" height="$height" preserveAspectRatio="none"
 href="$image"/></svg></figure>
$grids
</div>
</article>""")

GRID = Template("""<figure><figcaption><b>$label</b> <span>$score</span></figcaption>
<div class="scroll">$svg</div></figure>""")

CHART = Template("""<figure><figcaption><b>$name</b> <span>$symbol</span>$keys</figcaption>
$svg</figure>""")


@dataclass(frozen=True)
class Report:
    """All that the page says."""

    run_name: str
    kind: str
    """What was trained: "stage 1 with SEA", "stage 1 of plain LLaVA"."""
    llm: str
    tower: str
    step: int | None
    lines: list[Line]
    """The table of the numbers."""
    table_caption: str
    charts: list[Chart]
    pictures: list[Picture]
    num_words: int
    truth_known: bool
    with_sea: bool
    facts: list[tuple[str, str]]
    """What it was made from: name and value, as plain text."""
    notes: tuple[str, ...] = ()


def render(report: Report) -> str:
    """Return the whole page."""
    grids = report.pictures[0].grids
    return PAGE.substitute(
        title=escape(f"{report.run_name}: what the patches say"),
        style=STYLE,
        kicker=escape(f"{report.run_name} · {report.kind}"),
        setting=(
            "A projector that turns the patches of <code>"
            f"{escape(report.tower)}</code> into input tokens of <code>{escape(report.llm)}</code>."
        ),
        lead=_lead(report),
        notes="\n".join(f'<p class="note">{escape(note)}</p>' for note in report.notes),
        table=table_html(report.lines, report.table_caption, report.step),
        how_to_read=how_to_read(report.num_words, report.truth_known, len(grids)),
        choice=_choice(report.pictures),
        pictures="\n".join(
            _picture(picture, f"picture-{i}", report.truth_known)
            for i, picture in enumerate(report.pictures, start=1)
        ),
        curves=_curves(report.charts, report.step),
        definitions=definitions(report.with_sea),
        facts="\n".join(
            f"<dt>{escape(name)}</dt><dd><code>{escape(value)}</code></dd>"
            for name, value in report.facts
        ),
    )


def _lead(report: Report) -> str:
    """Say in a sentence or two what came out."""
    line = next((line for line in report.lines if line.key in PRECISION_KEYS), None)
    if line is None:
        return ""
    when = f"After {report.step:,} steps" if report.step is not None else "With this projector"
    whose = "the held-out patches" if line.after_step is not None else "the patches shown below"
    is_right = "is right" if line.key == PRECISION_KEYS[0] else "stands in the caption"
    text = (
        f"{when}, the word nearest to a patch {is_right} for "
        f"<strong>{number(line.after, True)}</strong> of {whose}"
    )
    if line.before is not None:
        text += f"; before training it was {number(line.before, True)}"
    objects = next((one for one in report.lines if one.key.endswith("_objects")), None)
    if objects is not None:
        share = number(objects.after, True)
        text += f". Of the patches that an object covers: <strong>{share}</strong>"
        if objects.before is not None:
            text += f", from {number(objects.before, True)}"
    return text + "."


def _choice(pictures: Sequence[Picture]) -> str:
    if len(pictures) == 1:
        return "The first held-out record with a picture."
    return f"The first {len(pictures)} held-out records with a picture, not picked by hand."


def _picture(picture: Picture, picture_id: str, truth_known: bool) -> str:
    first = picture.grids[0]
    layout = "large" if first.columns >= LARGE_GRID else "one" if len(picture.grids) == 1 else ""
    caption = f"“{escape(picture.caption)}”" if picture.caption else "(no caption)"
    return PICTURE.substitute(
        caption=caption,
        source=escape(f"{picture.record.image} · record {picture.record.id}"),
        layout=layout,
        id=picture_id,
        width=first.columns * UNIT,
        height=first.rows * UNIT,
        rendering="pixels" if picture.image.width <= 128 else "smooth",
        image=_data_uri(picture.image),
        grids="\n".join(_grid(grid, picture_id, truth_known) for grid in picture.grids),
    )


def _grid(grid: Grid, picture_id: str, truth_known: bool) -> str:
    right = "true word" if truth_known else "in the caption"
    score = f"{grid.right} of {len(grid.cells)} {'right' if truth_known else right}"
    objects = [cell for cell in grid.cells if cell.is_object]
    if objects:
        score += f", {sum(cell.right for cell in objects)} of {len(objects)} on objects"
    return GRID.substitute(
        label=escape(grid.label[:1].upper() + grid.label[1:]),
        score=score,
        svg=grid_svg(grid, picture_id, f"Nearest word of each patch, {grid.label}", right),
    )


def _curves(charts: Sequence[Chart], step: int | None) -> str:
    if not charts:
        return ""
    drawn = []
    for chart in charts:
        keys = ""
        if len(chart.curves) > 1:
            spans = [
                f'<span><i class="key s{i}"></i>{escape(curve.label)}</span>'
                for i, curve in enumerate(chart.curves)
            ]
            keys = f'<div class="keys">{"".join(spans)}</div>'
        drawn.append(
            CHART.substitute(
                name=escape(chart.measure.name),
                symbol=symbol_html(chart.measure.symbol, chart.measure.equation),
                keys=keys,
                svg=chart_svg(chart, step),
            )
        )
    charts_html = "\n".join(drawn)
    last = max(point.step for chart in charts for curve in chart.curves for point in curve.points)
    mark = (
        f" The dotted line is step {step:,}, which this report shows."
        if step and step < last
        else ""
    )
    return (
        "<h2>Over the steps of training</h2>\n"
        f'<p class="intro">The number at the end of a line is its last value.{mark}</p>\n'
        f'<div class="charts">\n{charts_html}\n</div>'
    )


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
