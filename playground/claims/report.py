"""Write what finished runs say: ``summary.json``, ``summary.md`` and a page of its own.

The ablations have ``summary-ablations.json`` and ``.md``, and no page. Of a part of the committed
grid gains are shown, and its tables stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_sea.errors import UserError
from llava_sea.files import write_atomically
from playground.claims import ablations
from playground.claims.options import CHOSEN_ON
from playground.claims.page import write_page
from playground.claims.plan import BASELINE
from playground.claims.summary import summarise
from playground.claims.tables import gain_table, markdown, write_summary
from playground.study.plan import Planned

NO_EVIDENCE = (
    "Made with --quick: a few short runs. They show that all parts work and are no evidence for or "
    "against anything."
)
FOR_CHOOSING = (
    "Development scenes: these numbers may choose between settings; what is claimed is measured "
    "on test scenes and other seeds."
)
SEEN = (
    f"With seeds of {CHOSEN_ON[0]} to {CHOSEN_ON[-1]}, on which `best` and stage 2 were chosen: "
    "what is claimed is measured on others."
)
PART = (
    "That is a part of the grid: the summary of all of it stays as it is (--results DIR writes "
    "this one's)."
)


def report(
    planned: Sequence[Planned], folder: Path | None, page: Path, split: str, *, quick: bool = False
) -> str:
    """Write the report of the runs that are finished.

    Args:
        planned: all runs of the study.
        folder: gets ``summary.json`` and ``summary.md``; None writes the page alone.
        page: the HTML file.
        split: whose scenes were asked about.
        quick: marks everything as no evidence.

    Returns:
        What was written, for people.

    Raises:
        UserError: if none is finished.
    """
    summary = _summary(planned, split, BASELINE, quick)
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(page, write_page(summary).encode())
    if folder is None:
        return f"{markdown(gain_table(summary))}\n{page} is written. {PART}"
    _write_tables(summary, folder, "summary")
    return f"{folder / 'summary.md'}, summary.json beside it and {page} are written"


def report_ablations(
    planned: Sequence[Planned], folder: Path | None, split: str, *, quick: bool = False
) -> str:
    """Write the ablations' tables, against `best`.

    Args:
        planned: all runs of the ablations.
        folder: gets ``summary-ablations.json`` and ``summary-ablations.md``; None writes nothing.
        split: whose scenes were asked about.
        quick: marks everything as no evidence.

    Returns:
        What was written, for people.

    Raises:
        UserError: if none is finished.
    """
    summary = _summary(planned, split, ablations.BASELINE, quick)
    if folder is None:
        return f"{markdown(gain_table(summary))}\n{PART}"
    _write_tables(summary, folder, "summary-ablations")
    return f"{folder / 'summary-ablations.md'} and summary-ablations.json beside it are written"


def _summary(planned: Sequence[Planned], split: str, baseline: str, quick: bool) -> dict[str, Any]:
    summary = summarise(planned, split, baseline)
    if not summary["cells"]:
        raise UserError("no run of this study is finished: there is nothing to report")
    seen = baseline == BASELINE and set(summary["seeds"]) & set(CHOSEN_ON)
    usual = FOR_CHOOSING if split == "dev" else SEEN if seen else ""
    return summary | {"warning": NO_EVIDENCE if quick else usual}


def count_others(planned: Sequence[Planned], folder: Path) -> str:
    """Say how many results of a folder are none of these runs', so that none is lost silently."""
    count = len(set(folder.glob("*.json")) - {item.path for item in planned})
    if not count:
        return ""
    return (
        f"{count} results in {folder} are of none of these runs and not counted: of other seeds, "
        "scenes or arms, or made with another recipe, precision, world or version\n"
    )


def _write_tables(summary: Mapping[str, Any], folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{name}.json", (json.dumps(summary) + "\n").encode())
    write_atomically(folder / f"{name}.md", write_summary(summary).encode())
