"""The page's curves: a chart for each measure, of one run or of two."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from string import Template

from llava_sea.report.chart_svg import chart_svg
from llava_sea.report.measures import Chart
from llava_sea.report.table import symbol_html

CHART = Template("""<figure><figcaption><b>$name</b> <span>$symbol</span>$keys</figcaption>
$svg</figure>""")


def curves_html(
    charts: Sequence[Chart], step: int | None, names: tuple[str, str] | None = None
) -> str:
    """Write the section; nothing where there are no charts.

    Args:
        charts: what was logged.
        step: the step that the report shows, marked where the run went further.
        names: what the run and the baseline are called, if there are two.
    """
    if not charts:
        return ""
    charts_html = "\n".join(_chart(chart, step, names) for chart in charts)
    last = max(point.step for chart in charts for curve in chart.curves for point in curve.points)
    intro = "The number at the end of a line is its last value."
    if names is not None:
        keys = "".join(
            f'<span><i class="key s{i}"></i>{escape(name)}</span>' for i, name in enumerate(names)
        )
        intro = f'<span class="keys">{keys}</span> {intro}'
        intro += " A chart with one line is of a quantity that the other run does not have."
    if step and step < last:
        intro += f" The dotted line is step {step:,}, which this report shows."
    return (
        f'<h2>Over the steps of training</h2>\n<p class="intro">{intro}</p>\n'
        f'<div class="charts">\n{charts_html}\n</div>'
    )


def _chart(chart: Chart, step: int | None, names: tuple[str, str] | None) -> str:
    keys = ""
    if names is None and len(chart.curves) > 1:
        spans = [
            f'<span><i class="key s{curve.colour}"></i>{escape(curve.label)}</span>'
            for curve in chart.curves
        ]
        keys = f'<div class="keys">{"".join(spans)}</div>'
    name = ", ".join(part for part in (chart.measure.name, chart.label) if part)
    return CHART.substitute(
        name=escape(name),
        symbol=symbol_html(chart.measure.symbol, chart.measure.equation),
        keys=keys,
        svg=chart_svg(chart, step, named=names is not None),
    )
