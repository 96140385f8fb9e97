"""The table of numbers: each measure before and after, or of two runs, and which is better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from string import Template

from llava_sea.report.measures import MEASURES, Line, Measure, number

TABLE = Template("""<div class="wide"><table>
<caption>$caption</caption>
<thead><tr><th>Measure</th><th class="n">before</th><th class="n">$after</th>
<th class="n">change</th><th></th></tr></thead>
<tbody>
$rows
</tbody></table></div>""")

PAIR_TABLE = Template("""<div class="wide"><table>
<caption>$caption</caption>
<thead><tr><th>Measure</th><th class="n soft">before</th><th class="n">$baseline</th>
<th class="n">$run</th><th class="n">difference</th><th></th></tr></thead>
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


def pair_table_html(
    names: tuple[str, str], lines: tuple[Sequence[Line], Sequence[Line]], caption: str
) -> str:
    """Write the table of two runs: the baseline's last value, the run's, and the difference.

    Args:
        names: what the run and the baseline are called.
        lines: their rows; one that a run lacks is shown with the other's value alone.
        caption: what stands above it, as plain text.
    """
    ours, theirs = ({(line.key, line.label): line for line in one} for one in lines)
    order = [(m.name, key) for m in MEASURES for key in m.keys]
    keys = sorted(
        {*ours, *theirs},
        key=lambda key: next((i for i, (_, k) in enumerate(order) if k.key == key[0]), len(order)),
    )
    if not keys:
        return ""
    rows = "\n".join(_pair_row(names[0], ours.get(key), theirs.get(key)) for key in keys)
    run, baseline = (escape(name) for name in names)
    return PAIR_TABLE.substitute(caption=escape(caption), run=run, baseline=baseline, rows=rows)


def _pair_row(name: str, run: Line | None, baseline: Line | None) -> str:
    line = run or baseline
    assert line is not None
    percent = line.measure.percent
    befores = {
        number(one.before, percent) for one in (run, baseline) if one and one.before is not None
    }
    before = " or ".join(sorted(befores)) or "–"
    values = ["–" if one is None else number(one.after, percent) for one in (baseline, run)]
    change = '<td class="n">–</td><td></td>'
    if run is not None and baseline is not None:
        # One training batch's value says nothing about two runs.
        words = ("", "") if line.label == "training" else (f"{name} better", f"{name} worse")
        change = _difference(line.measure, run.after - baseline.after, words)
    return (
        f"<tr><th>{_heading(line)}</th>"
        f'<td class="n soft">{before}</td><td class="n">{values[0]}</td>'
        f'<td class="n"><span class="after">{values[1]}</span></td>{change}</tr>'
    )


def _heading(line: Line) -> str:
    measure = line.measure
    symbol = symbol_html(measure.symbol, measure.equation)
    return f"{escape(measure.name)}, {escape(line.label)} <small>{symbol}</small>"


def _row(line: Line, step: int | None) -> str:
    measure = line.measure
    before = "–"
    if line.before is not None:
        before = number(line.before, measure.percent) + _at_step(line.before_step, (0, 1))
    after = number(line.after, measure.percent)
    return (
        f"<tr><th>{_heading(line)}</th>"
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
    return _difference(line.measure, line.after - line.before, ("better", "worse"))


def _difference(measure: Measure, change: float, words: tuple[str, str]) -> str:
    """Return two cells: a difference, and what it means in a word."""
    if measure.percent:
        shown = f"{100 * change:+.1f} points"
    else:
        shown = ("+" if change >= 0 else "-") + number(abs(change))
    verdict = ""
    if measure.better and change and math.isfinite(change):
        improved = change * measure.better > 0
        name, word = ("good", words[0]) if improved else ("bad", words[1])
        verdict = f'<small class="{name}">{escape(word)}</small>'
    return f'<td class="n">{shown.replace("-", "−")}</td><td class="verdict">{verdict}</td>'


def symbol_html(symbol: str, equation: str) -> str:
    """Write a measure's symbol and the number of its equation."""
    letter, _, index = symbol.partition("_")
    shown = f"<var>{escape(letter)}</var>" if len(letter) == 1 else ""
    if index:
        shown += f"<sub>{escape(index)}</sub>"
    return f"{shown} ({escape(equation)})".strip()
