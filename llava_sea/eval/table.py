"""The table of all benchmarks: a row per task, a column per checkpoint, gains over a baseline.

A cell is a score, or says that a file waits for its server. Below the table stands what each score
depends on (number of questions, protocol), then the models' templates and where the files are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llava_sea.eval.outcome import Outcome, Submission, Task
from llava_sea.eval.score import FLOOR, Score, gains
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
    gained = (
        {}
        if baseline is None
        else {n: gains(scores[n], scores[baseline]) for n in columns if n != baseline}
    )

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
    meant = {name: first_split_per_benchmark(found, tasks) for name, found in gained.items()}
    if gained:
        table.add_section()
        table.add_row("mean gain", "", "", *_mean_gains(columns, meant))
        inside = {name for found in meant.values() for name in found}
        low = [t for t in rows if baseline and 0 < _value(scores[baseline], t) < FLOOR]
        low = [task for task in low if task.name in inside]
        few = {task.name for task in low}
        if few:
            kept = {n: {t: g for t, g in f.items() if t not in few} for n, f in meant.items()}
            title = f"without {', '.join(task.title for task in low)}"
            table.add_row(title, f"baseline below {FLOOR:g}", "", *_mean_gains(columns, kept))
    console.print(table)
    if gained:
        counts = ", ".join(f"{name}: {len(found)}" for name, found in meant.items())
        none = [task.title for task in rows if baseline and _value(scores[baseline], task) == 0]
        line = f"gain: relative to {baseline}, where protocols agree; the mean takes one a "
        line += f"benchmark, of its first split that has one ({counts})"
        line += f"; none over a score of 0: {', '.join(none)}" if none else ""
        _say(console, line)
    _print_notes(rows, columns, console)


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def first_split_per_benchmark(
    found: Mapping[str, float], tasks: Sequence[Task]
) -> dict[str, float]:
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


def _value(scores: Mapping[str, Score], task: Task) -> float:
    return scores[task.name].value if task.name in scores else math.nan


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
    """Return a column's name with its conversation templates; "" where none is known."""
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
        (task, name, outcome)
        for task in rows
        for name, column in columns.items()
        if isinstance(outcome := column.get(task.name), Submission)
    ]
    if waiting:
        console.print("\nTo be submitted (scores that come back: --server_scores FILE):")
    for task, name, outcome in waiting:
        where = f"{outcome.path} -> {outcome.server}"
        _say(console, f"  {task.title} {task.split}, {name}: {where}")
