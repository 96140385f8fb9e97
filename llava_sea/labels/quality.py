r"""How good would labels be on this corpus? Every kind side by side, and the one to take.

    python -m llava_sea.labels.quality --data_path pretrain.json --image_folder images \
        --vision_tower clip --words words.tsv [--truth truth.json] [--output quality.json]

Features x sign x centre x n, on a sample: caption lift, hubs, spatial consistency, and whether
labels stand in the right place, all from images and captions alone; with ``--truth`` precision too.
The last line is the flags of `llava_sea.labels.extract` for the kind that is chosen:

    features, sign, centre   the highest place recall (`quality_measures.py`), less three standard
                             errors, at the n where it is highest
    n                        of those, the highest place lift

Recall first: on the miniature world caption lift, and place lift to a lesser degree, is led by the
background, or by a few labels that nearly never occur; recall counts every word of a caption the
same. It must fall with n, for a label's chance is shared among n: so n is chosen by place lift,
which rises as long as more words bring more right ones.

Limits: a sample of the corpus; the mean patch of ``--sea_center corpus`` is the sample's.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_sea.errors import UserError, run_command
from llava_sea.labels.options import QualityOptions, parse_flags
from llava_sea.terminal import log_to, open_console, say

if TYPE_CHECKING:  # --help must not wait for torch
    from rich.table import Table

    from llava_sea.labels.quality_measures import Row

ERRORS = 3.0  # standard errors taken off a recall; the best of a hundred rows is 2 by luck alone
_WIDTH = 200  # columns of a file or a pipe, which have no width of their own

_LEGEND = """
cap lift  how often a kept label is in its image's caption / in another image's (± error)
cos<0     share of patch-word cosines below 0 (less the mean patch's, if centred)
kept      patches with a label; hubs: patches with a label from the commonest 1 % of the words
local     neighbours that draw the same label / other patches of the image that do
place     lift: a drawn label is in its own half's caption / in the other half's, images cut and
          joined; recall: words of a caption found in their half less in the other (± error)"""
_TRUTH = """
top-1, n  share of the best, of all kept labels that are true; drawn: of those that eq. 9 draws;
          each for object patches / background patches / all"""


def choose(rows: Sequence[Row]) -> Row | None:
    """Return the best row, or None if no label is clearly in its place anywhere."""

    def bound(row: Row) -> float:
        value = row.place.recall - ERRORS * row.place.recall_error
        return value if math.isfinite(value) else -math.inf

    best = max(rows, key=bound)
    return _best_n([row for row in rows if row.kind == best.kind]) if bound(best) > 0 else None


def _best_n(rows: Sequence[Row]) -> Row:
    """Of rows that differ in n alone return the one with the highest place lift."""
    return max(rows, key=lambda row: -math.inf if math.isnan(row.place.lift) else row.place.lift)


def print_table(rows: Sequence[Row], chosen: Row | None) -> None:
    """Print every kind of label at its best n, the chosen kind at every n, and a legend."""
    console = open_console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDTH)
    kinds = dict.fromkeys(row.kind for row in rows)
    console.print("every kind at its n of highest place lift")
    some = [_best_n([row for row in rows if row.kind == kind]) for kind in kinds]
    console.print(_table(some, chosen))
    if chosen is not None:
        console.print("\nthe chosen kind at every n")
        console.print(_table([row for row in rows if row.kind == chosen.kind], chosen))
    say(_LEGEND + (_TRUTH if rows[0].precision is not None else ""))


def _table(rows: Sequence[Row], chosen: Row | None) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1), header_style="bold")
    known = rows[0].precision is not None
    names = ["", "features", "center", "sign", "n", "cap lift", "cos<0", "kept", "hubs", "local"]
    names += ["place lift", "recall", *(["top-1", "top-n", "drawn"] if known else [])]
    for name in names:
        left = name in ("", "features", "center")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    table.add_column("commonest labels", no_wrap=True)
    for row in rows:
        lift, place = row.lift, row.place
        cells = [">" if row is chosen else "", row.features, row.center, f"{row.sign:+d}"]
        cells += [str(row.top_n), f"{_number(lift.lift)} ±{_number(lift.lift_error)}"]
        cells += [f"{x:.0%}" for x in (row.negative_share, row.labelled, lift.hub_cover)]
        cells.append(_number(row.agreement.local))
        cells.append(f"{_number(place.lift)} ±{_number(place.lift_error)}")
        cells.append(f"{_number(place.recall, 3)} ±{_number(place.recall_error, 3)}")
        for name in ("top1", "top_n", "sampled") if row.precision is not None else ():
            parts = [_number(getattr(p, name)) for p in (row.precision or {}).values()]
            cells.append("/".join(part.removeprefix("0") for part in parts))
        table.add_row(*cells, ", ".join(lift.hubs))
    return table


def _number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def _write_results(
    path: Path, options: QualityOptions, rows: list[Row], chosen: Row | None
) -> None:
    from llava_sea.files import write_atomically
    from llava_sea.labels.sign import finite

    names = ("features", "sign", "center", "top_n")
    results: dict[str, Any] = {
        "options": asdict(options),
        "chosen": None if chosen is None else {name: getattr(chosen, name) for name in names},
        "rows": [finite(asdict(row)) for row in rows],
    }
    write_atomically(path, (json.dumps(results, indent=1) + "\n").encode())


def flags_of(row: Row) -> str:
    """The flags of an extraction that makes a row's labels."""
    return (
        f"--sea_features {row.features} --sea_sign {row.sign:+d} --sea_center {row.center} "
        f"--sea_top_n {row.top_n}"
    )


def parse_options(arguments: Sequence[str] | None = None) -> QualityOptions:
    """Read the command line; raises as `parse_flags`."""
    return parse_flags(
        QualityOptions,
        "python -m llava_sea.labels.quality",
        "Measure how good labels of every kind would be on this corpus, and say which are best.",
        arguments,
    )


def main() -> None:
    """Run the command."""
    options = parse_options().resolved()
    from transformers.utils import logging as transformers_logging

    from llava_sea.labels.quality_measures import measure_quality

    transformers_logging.disable_progress_bar()
    log_to(sys.stdout)
    rows = measure_quality(options)
    chosen = choose(rows)
    print_table(rows, chosen)
    if options.output is not None:
        _write_results(Path(options.output), options, rows, chosen)
    if chosen is None:
        raise UserError(
            "with no features, sign or centre do words stand clearly more often in their own half "
            "of a cut and joined image than in the other, so nothing is chosen. Ways out: more "
            "--num_images, a word list made from these captions, another --vision_tower"
        )
    say(f"\nchosen (place recall; n by place lift): {flags_of(chosen)}")


if __name__ == "__main__":
    run_command(main)
