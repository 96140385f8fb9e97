"""The table of all benchmarks: a row per task, a column per checkpoint, gains over a baseline.

A cell is a score, or says that a file waits for its server. Below the table stands what each score
depends on (number of questions, protocol), then the models' templates and where the files are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llava_sea.eval.benchmarks import Task
from llava_sea.eval.score import FLOOR, Outcome, Score, Submission, gains
from llava_sea.terminal import open_console

FILE_WIDTH = 140
"""Characters of a line where the output is no terminal."""

Column = Mapping[str, Outcome]
"""A checkpoint's outcomes by task."""

Gains = Mapping[str, float]
"""Relative gains by task, in percent."""


def print_table(
    tasks: Sequence[Task],
    columns: Mapping[str, Column],
    baseline: str | None,
    console: Console | None = None,
) -> None:
    """Print the table on stdout, or on another console.

    Args:
        tasks: its rows; those with no outcome in any column are left out.
        columns: checkpoints by name.
        baseline: the name of the column that the others are compared with.
        console: another place than stdout.
    """
    if console is None:
        plain = open_console()
        console = plain if plain.is_terminal else open_console(width=FILE_WIDTH)
    scores = {
        name: {task: o for task, o in column.items() if isinstance(o, Score)}
        for name, column in columns.items()
    }
    rows = [task for task in tasks if any(task.name in column for column in columns.values())]
    base = scores[baseline] if baseline is not None else {}
    gained = {n: gains(scores[n], base) for n in columns if baseline not in (None, n)}

    table = Table(title="Benchmarks", title_justify="left", header_style="bold")
    table.add_column("benchmark")
    table.add_column("split")
    table.add_column("questions", justify="right")
    for name in columns:
        table.add_column(escape(name), justify="right", overflow="fold")
        if name in gained:
            table.add_column("gain", justify="right")
    for task in rows:
        cells = []
        for name, column in columns.items():
            cells.append(_cell(column.get(task.name)))
            if name in gained:
                gain = gained[name].get(task.name)
                cells.append("" if gain is None else f"{gain:+.1f} %")
        sizes = {s[task.name].questions for s in scores.values() if task.name in s}
        sizes -= {0}  # a server does not say
        asked = f"{min(sizes):,}" if len(sizes) == 1 else "differ" if sizes else ""
        table.add_row(task.title, task.split, asked, *cells)
    meant = {name: _first_split_per_benchmark(found, tasks) for name, found in gained.items()}
    values = {task: base[task.name].value for task in rows if task.name in base}
    if gained:
        table.add_section()
        table.add_row("mean gain", "", "", *_mean_gains(columns, meant))
        inside = {name for found in meant.values() for name in found}
        low = {t.name: t for t, v in values.items() if 0 < v < FLOOR and t.name in inside}
        if low:
            kept = {n: {t: g for t, g in f.items() if t not in low} for n, f in meant.items()}
            title = f"without {', '.join(task.title for task in low.values())}"
            table.add_row(title, f"baseline below {FLOOR:g}", "", *_mean_gains(columns, kept))
    console.print(table)
    if gained:
        counts = ", ".join(f"{name}: {len(found)}" for name, found in meant.items())
        none = [task.title for task, value in values.items() if value == 0]
        line = f"gain: relative to {baseline}, where protocols agree; the mean takes one a "
        line += f"benchmark, of its first split that has one ({counts})"
        line += f"; none over a score of 0: {', '.join(none)}" if none else ""
        _say(console, line)
    _print_notes(rows, columns, console)


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _first_split_per_benchmark(found: Gains, tasks: Sequence[Task]) -> Gains:
    """Return one gain for each benchmark, by task: the first of its splits that has one."""
    first: dict[str, str] = {}
    for task in tasks:
        if task.name in found:
            first.setdefault(task.benchmark, task.name)
    return {name: found[name] for name in first.values()}


def _mean_gains(columns: Mapping[str, Column], gained: Mapping[str, Gains]) -> list[str]:
    cells = []
    for name in columns:
        cells.append("")
        if name in gained:
            cells.append(f"{fmean(gained[name].values()):+.2f} %" if gained[name] else "")
    return cells


def _cell(outcome: Outcome | None) -> str:
    if outcome is None:
        return "-"
    if isinstance(outcome, Submission):
        return "to be submitted"
    judge = outcome.protocol.get("judge")
    missing = f" ({outcome.missing} unanswered)" if outcome.missing else ""
    by = f" ({', '.join(filter(None, (judge, outcome.when)))})" if judge else ""
    return f"{outcome.value:.1f}{missing}{by}"


def _templates(name: str, column: Column) -> str:
    found = {o.template: None for o in column.values() if isinstance(o, Score) and o.template}
    return f"{name}: {', '.join(found)}" if found else ""


def _print_notes(rows: Sequence[Task], columns: Mapping[str, Column], console: Console) -> None:
    console.print("\nProtocols:")
    for task in rows:
        said: dict[str, list[str]] = {}
        for name, column in columns.items():
            outcome = column.get(task.name)
            if isinstance(outcome, Score):
                said.setdefault(outcome.describe(), []).append(name)
        for text, names in said.items():
            whose = "" if len(said) == 1 else f" ({', '.join(names)})"
            _say(console, f"  {task.title} {task.split}{whose}: {text}")
    templates = "; ".join(filter(None, (_templates(*item) for item in columns.items())))
    if templates:
        _say(console, f"\nConversation templates: {templates}")
    waiting = [
        f"  {task.title} {task.split}, {name}: {outcome.path} -> {outcome.server}"
        for task in rows
        for name, column in columns.items()
        if isinstance(outcome := column.get(task.name), Submission)
    ]
    if waiting:
        console.print("\nTo be submitted (scores that come back: --server_scores FILE):")
    for line in waiting:
        _say(console, line)
