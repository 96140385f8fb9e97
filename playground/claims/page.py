"""The claims' study as one HTML file that fetches nothing: tables and SVG plots, light and dark."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from llava_sea.report.charts import STYLE
from playground.claims.plots import curves_svg, gains_svg, key_html, language_svg, means_svg
from playground.claims.tables import (
    LIMITS,
    Table,
    gain_table,
    introduction,
    language_table,
    missing_note,
    parts_table,
    score_tables,
    stage1_table,
)
from playground.study.figure import DARK, LIGHT

ARM_COLOURS = ("plain", "sea-paper", "sea-paper-sign", "sea-best", "warm-best")


def _variables(colours: Mapping[str, str]) -> str:
    arms = " ".join(f"--{arm}: {colours[arm]};" for arm in ARM_COLOURS)
    return f":root {{ {arms} --none: {colours['rule']}; }}"


OWN_STYLE = (
    _variables(LIGHT)
    + f"@media screen and (prefers-color-scheme: dark) {{ {_variables(DARK)} }}"
    + "".join(f".a-{a} {{ stroke: var(--{a}); fill: var(--{a}); }}" for a in (*ARM_COLOURS, "none"))
    + """
.a-none { stroke: var(--ink); fill: var(--paper); } polyline.a-none { stroke-dasharray: 4 3; }
svg.plot { width: 100%; height: auto; font: 11px var(--sans); overflow: visible; }
svg.plot .rule { stroke: var(--rule); }
svg.plot text { fill: var(--ink); stroke: none; } svg.plot text.tick { fill: var(--soft); }
svg.plot .bar { stroke-width: 1.6; fill: none; } svg.plot .zero { stroke: var(--soft); }
svg.plot polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.key svg { display: inline-block; width: 12px; height: 12px; vertical-align: -1px; }
i.key { width: auto; height: auto; background: none; margin: 0 16px 0 0; font-style: normal; }
td b { font-weight: 700; color: var(--good); } td em { color: var(--bad); }
th, td { padding-left: 16px; font-size: 14px; } td:first-child { padding-left: 0; }
td:first-child, td.v { white-space: nowrap; }
.charts.top figure { justify-content: flex-start; }
.wide + .fine { margin-top: 28px; }
"""
)


PLOTS = "Dots with bars: means and 95 % t-intervals of each arm. Lines: means over seeds."


def write_page(summary: Mapping[str, Any]) -> str:
    """Return the page."""
    title = "Plain LLaVA and SEA through both stages, on the miniature world"
    warning = f'<p class="note"><b>{escape(summary["warning"])}</b></p>'
    missing = f'<p class="note">{escape(missing_note(summary))}</p>'
    parts = [
        f"<h1>{title}</h1>",
        warning if summary["warning"] else "",
        f"<p>{escape(introduction(summary))}</p>",
        missing if summary["missing"] else "",
        f'<p class="note">{escape(LIMITS)}</p>',
        f'<p class="fine">{escape(PLOTS)}</p>',
        key_html(summary["arms"]),
        "<h2>Gains over plain LLaVA</h2>",
        f'<div class="charts top">{means_svg(summary)}{gains_svg(summary)}</div>',
        _table(gain_table(summary)),
        _table(parts_table(summary)),
        "<h2>The eight</h2>",
        *(_table(table) for table in score_tables(summary)),
        "<h2>Language kept</h2>",
        f'<div class="charts">{language_svg(summary)}</div>',
        _table(language_table(summary)),
        "<h2>Stage 1</h2>",
        f'<div class="charts">{curves_svg(summary)}</div>',
        _table(stage1_table(summary)),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}{OWN_STYLE}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.head)
    marks = {1: "b", -1: "em"}
    rows = []
    for row in table.rows:
        fields = []
        for field in row:
            text = escape(field.text.replace("`", ""))
            if mark := marks.get(field.verdict):
                text = f"<{mark}>{text}</{mark}>"
            kind = ' class="v"' if "±" in text else ""
            fields.append(f"<td{kind}>{text}</td>")
        rows.append(f"<tr>{''.join(fields)}</tr>")
    return (
        f'<p class="fine">{escape(table.caption)}</p><div class="wide"><table>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{chr(10).join(rows)}</tbody></table></div>"
    )
