"""The table of the run's numbers: each measure before and after, and whether that is better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from string import Template

from llava_sea.report.measures import Line, number

TABLE = Template("""<div class="wide"><table>
<caption>$caption</caption>
<thead><tr><th>Measure</th><th class="n">before</th><th class="n">$after</th>
<th class="n">change</th><th></th></tr></thead>
<tbody>
$rows
</tbody></table></div>""")


def table_html(lines: Sequence[Line], caption: str, step: int | None) -> str:
    """Write the table.

    Args:
        lines: its rows; without any there is no table.
        caption: what stands above it, as plain text.
        step: the step that "after" stands for, if it is known.
    """
    if not lines:
        return ""
    after = "after" if step is None else f"after {step:,} steps"
    rows = "\n".join(_row(line, step) for line in lines)
    return TABLE.substitute(caption=escape(caption), after=after, rows=rows)


def _row(line: Line, step: int | None) -> str:
    measure = line.measure
    before = "–"
    if line.before is not None:
        before = number(line.before, measure.percent) + _at_step(line.before_step, (0, 1))
    after = number(line.after, measure.percent)
    return (
        f"<tr><th>{escape(measure.name)}, {escape(line.label)} "
        f"<small>{symbol_html(measure.symbol, measure.equation)}</small></th>"
        f'<td class="n">{before}</td>'
        f'<td class="n"><span class="after">{after}</span>{_at_step(line.after_step, (step,))}</td>'
        f"{_change(line)}</tr>"
    )


def _at_step(step: int | None, expected: Sequence[int | None]) -> str:
    """Name the step of a value that is not from where the column's head says."""
    return "" if step is None or step in expected else f" <small>at step {step:,}</small>"


def _change(line: Line) -> str:
    """Return two cells: the difference, and whether it is one for the better."""
    if line.before is None:
        return '<td class="n">–</td><td></td>'
    change = line.after - line.before
    if line.measure.percent:
        shown = f"{100 * change:+.1f} points"
    else:
        shown = ("+" if change >= 0 else "-") + number(abs(change))
    verdict = ""
    if line.measure.better and change and math.isfinite(change):
        improved = change * line.measure.better > 0
        name, word = ("good", "better") if improved else ("bad", "worse")
        verdict = f'<small class="{name}">{word}</small>'
    return f'<td class="n">{shown.replace("-", "−")}</td><td class="verdict">{verdict}</td>'


def symbol_html(symbol: str, equation: str) -> str:
    """Write a measure's symbol and the number of its equation."""
    letter, _, index = symbol.partition("_")
    shown = f"<var>{escape(letter)}</var>" if len(letter) == 1 else ""
    if index:
        shown += f"<sub>{escape(index)}</sub>"
    return f"{shown} ({escape(equation)})".strip()
