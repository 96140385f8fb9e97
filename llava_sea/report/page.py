"""The page: what the report holds, and the one place where HTML is put together.

Every text that comes from a user's file (captions, words, names, paths) is escaped here or in the
modules of the sections; `Template` fills in what is finished HTML and reads nothing a second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from string import Template

from llava_sea.report.cells import Picture
from llava_sea.report.curves_html import curves_html
from llava_sea.report.explain import definitions, how_to_read, what_it_is
from llava_sea.report.map_html import map_html
from llava_sea.report.measures import PRECISION_KEYS, Chart, Line, number
from llava_sea.report.picture_html import picture_html
from llava_sea.report.style import STYLE
from llava_sea.report.table import pair_table_html, table_html
from llava_sea.report.token_map import TokenMap

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
<h1>$heading</h1>
<p class="lead">$lead</p>
<p class="what">$what</p>
$notes
$table
<h2>Held-out pictures</h2>
<p>$choice</p>
$how_to_read
$pictures
$map
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


@dataclass(frozen=True)
class Baseline:
    """The other run of a report of two, shown on the left."""

    names: tuple[str, str]
    """What the run and this baseline are called."""
    lines: list[Line]
    """The table's rows of the baseline."""


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
    baseline: Baseline | None = None
    token_map: TokenMap | None = None


def render(report: Report) -> str:
    """Return the whole page."""
    names = report.baseline.names if report.baseline else None
    title = f"{report.run_name}: what the patches say"
    heading = "What the patches say"
    if report.baseline is None:
        table = table_html(report.lines, report.table_caption, report.step)
        lead = _lead(report)
    else:
        lines = report.lines, report.baseline.lines
        table = pair_table_html(report.baseline.names, lines, report.table_caption)
        lead = _pair_lead(report.baseline.names, *lines)
        heading = f"{heading}: {report.baseline.names[1]} beside {report.baseline.names[0]}"
    return PAGE.substitute(
        title=escape(title),
        style=STYLE,
        kicker=escape(f"{report.run_name} · {report.kind}"),
        heading=escape(heading),
        what=what_it_is(names),
        lead=lead,
        notes="\n".join(f'<p class="note">{escape(note)}</p>' for note in report.notes),
        table=table,
        how_to_read=how_to_read(report.num_words, report.truth_known),
        choice=_choice(report.pictures),
        pictures="\n".join(
            picture_html(picture, f"picture-{i}", report.truth_known)
            for i, picture in enumerate(report.pictures, start=1)
        ),
        map=map_html(report.token_map),
        curves=curves_html(report.charts, report.step, names),
        definitions=definitions(report.with_sea),
        facts="\n".join(
            f"<dt>{escape(name)}</dt><dd><code>{escape(value)}</code></dd>"
            for name, value in (
                ("Vision tower", report.tower),
                ("Language model", report.llm),
                *report.facts,
            )
        ),
    )


def _lead(report: Report) -> str:
    """Say in a sentence or two what came out."""
    line = _precision(report.lines)
    if line is None:
        return ""
    when = f"After {report.step:,} steps" if report.step is not None else "With this projector"
    text = (
        f"{when}, the word nearest to a patch {_is_right(line)} for "
        f"<strong>{number(line.after, True)}</strong> of {_whose(line)}"
    )
    if line.before is not None:
        text += f"; before training it was {number(line.before, True)}"
    objects = _objects(report.lines)
    if objects is not None:
        share = number(objects.after, True)
        text += f". Of the patches that an object covers: <strong>{share}</strong>"
        if objects.before is not None:
            text += f", from {number(objects.before, True)}"
    return text + "."


def _pair_lead(names: tuple[str, str], run: Sequence[Line], baseline: Sequence[Line]) -> str:
    """Say in a sentence or two what came out of both."""
    ours, theirs = _precision(run), _precision(baseline)
    if ours is None or theirs is None or ours.key != theirs.key:
        return ""
    run_name, baseline_name = (escape(name) for name in names)
    text = (
        f"The word nearest to a patch {_is_right(ours)} for <strong>{number(ours.after, True)}"
        f"</strong> of {_whose(ours)} with {run_name}, and for {number(theirs.after, True)} with "
        f"{baseline_name}"
    )
    objects = _objects(run), _objects(baseline)
    if objects[0] is not None and objects[1] is not None:
        text += (
            f". Of the patches that an object covers: <strong>{number(objects[0].after, True)}"
            f"</strong> against {number(objects[1].after, True)}"
        )
    return text + "."


def _precision(lines: Sequence[Line]) -> Line | None:
    return next((line for line in lines if line.key in PRECISION_KEYS), None)


def _objects(lines: Sequence[Line]) -> Line | None:
    return next((line for line in lines if line.key.endswith("_objects")), None)


def _is_right(line: Line) -> str:
    return "is right" if line.key == PRECISION_KEYS[0] else "stands in the caption"


def _whose(line: Line) -> str:
    return "the held-out patches" if line.after_step is not None else "the patches shown below"


def _choice(pictures: Sequence[Picture]) -> str:
    if len(pictures) == 1:
        return "The first held-out record with a picture."
    return f"The first {len(pictures)} held-out records with a picture, not picked by hand."
