"""The table of label quality, for a terminal and for a file."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from llava_sea.labels.quality_choice import agreement_with_truth, best_n
from llava_sea.labels.quality_rows import Row
from llava_sea.terminal import open_console

_WIDTH = 200  # columns of a file or a pipe, which have no width of their own

_LEGEND = """\
cap lift  how often a kept label is in its picture's caption / in another picture's (± error)
cos<0     share of patch-word cosines below 0 (less the mean patch's, if centred)
kept      patches with a label; hubs: patches with a label from the commonest 1 % of the words
local     neighbours that draw the same label / other patches of the picture that do
place     lift: a drawn label is in its own half's caption / in the other half's, pictures cut and
          joined; recall: words of a caption found in their half less in the other (± error)"""
_TRUTH = """\
top-1, n  share of the best, of all kept labels that are true; drawn: of those that eq. 9 draws;
          each for object patches / background patches / all"""


def print_table(rows: Sequence[Row], chosen: Row | None) -> None:
    """Print every kind of label at its best n, the chosen kind at every n, and what it all means.

    Args:
        rows: all that was measured.
        chosen: the row to mark.
    """
    console = open_console(file=sys.stdout)
    if not console.is_terminal:
        console = open_console(file=sys.stdout, width=_WIDTH)
    kinds = dict.fromkeys(row.kind for row in rows)
    at_best_n = [best_n([row for row in rows if row.kind == kind]) for kind in kinds]
    console.print("every kind at its n of highest place lift")
    console.print(_table(at_best_n, chosen))
    if chosen is not None:
        console.print("\nthe chosen kind at every n")
        console.print(_table([row for row in rows if row.kind == chosen.kind], chosen))
    known = rows[0].precision is not None
    console.print("\n" + _LEGEND + ("\n" + _TRUTH if known else ""), highlight=False, markup=False)
    if known:
        _print_agreement(console, rows, chosen)


def _print_agreement(console: Console, rows: Sequence[Row], chosen: Row | None) -> None:
    """Print how far the measures, and the choice, agree with the truth."""
    console.print("\nrank correlation (Spearman) of the measures with the precision of draws")
    groups = {"all rows": rows} | {
        f"sign {sign:+d}": [row for row in rows if row.sign == sign]
        for sign in ([] if chosen is None else [chosen.sign])
    }
    for group, some in groups.items():
        for name, by_patch in agreement_with_truth(some).items():
            text = "  ".join(f"{patch} {value:+.2f}" for patch, value in by_patch.items())
            console.print(f"{group:>9}  {name:>12}  {text}", highlight=False)
    if chosen is None or chosen.precision is None:
        return
    best = {
        patch: max(_drawn(row, patch) for row in rows if math.isfinite(_drawn(row, patch)))
        for patch, found in chosen.precision.items()
        if math.isfinite(found.sampled)
    }
    text = ", ".join(f"{_drawn(chosen, p):.3f} of {value:.3f} ({p})" for p, value in best.items())
    console.print(f"precision of draws, chosen row of best row: {text}", highlight=False)


def _drawn(row: Row, patch: str) -> float:
    return row.precision[patch].sampled if row.precision is not None else math.nan


def _table(rows: Sequence[Row], chosen: Row | None) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for name in ("", "features", "center"):
        table.add_column(name, no_wrap=True)
    names = ["sign", "n", "cap lift", "cos<0", "kept", "hubs", "local", "place lift", "recall"]
    names += ["top-1", "top-n", "drawn"] if rows[0].precision is not None else []
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("commonest labels", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row, row is chosen))
    return table


def flags_of(row: Row) -> str:
    """Return the flags of an extraction that makes a row's labels."""
    return (
        f"--sea_features {row.features} --sea_sign {row.sign:+d} --sea_center {row.center} "
        f"--sea_top_n {row.top_n}"
    )


def _cells(row: Row, chosen: bool) -> list[str]:
    lift, place = row.lift, row.place
    cells = [
        ">" if chosen else "",
        row.features,
        row.center,
        f"{row.sign:+d}",
        str(row.top_n),
        f"{_number(lift.lift)} ±{_number(lift.lift_error)}",
        f"{row.negative_share:.0%}",
        f"{row.labelled:.0%}",
        f"{lift.hub_cover:.0%}",
        _number(row.agreement.local),
        f"{_number(place.lift)} ±{_number(place.lift_error)}",
        f"{_number(place.recall, 3)} ±{_number(place.recall_error, 3)}",
    ]
    if row.precision is not None:
        for name in ("top1", "top_n", "sampled"):
            parts = [_number(getattr(p, name)) for p in row.precision.values()]
            cells.append("/".join(part.removeprefix("0") for part in parts))
    return [*cells, ", ".join(lift.hubs)]


def _number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"
