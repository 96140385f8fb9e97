"""Write what finished runs say: ``summary.json``, ``summary.md`` and a page of its own.

The ablations have ``summary-ablations.json`` and ``.md``, and no page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_sea.errors import UserError
from llava_sea.files import write_atomically
from playground.claims import ablations
from playground.claims.page import write_page
from playground.claims.plan import BASELINE
from playground.claims.summary import summarise
from playground.claims.tables import write_summary
from playground.study.plan import Planned

NO_EVIDENCE = (
    "Made with --quick: one LLM, the shortest stage 1, two seeds. It shows that all parts work "
    "and is no evidence for or against anything."
)
FOR_CHOOSING = (
    "Development scenes: these numbers may choose between settings; what is claimed is measured "
    "on test scenes."
)


def report(
    planned: Sequence[Planned], folder: Path, page: Path, split: str, *, quick: bool = False
) -> str:
    """Write the report of the runs that are finished.

    Args:
        planned: all runs of the study.
        folder: gets ``summary.json`` and ``summary.md``.
        page: the HTML file.
        split: whose scenes were asked about.
        quick: marks everything as no evidence.

    Returns:
        What was written, for people.

    Raises:
        UserError: if none is finished.
    """
    summary = _summary(planned, split, BASELINE, quick)
    _write_tables(summary, folder, "summary")
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(page, write_page(summary).encode())
    return f"{folder / 'summary.md'}, summary.json beside it and {page} are written"


def report_ablations(
    planned: Sequence[Planned], folder: Path, split: str, *, quick: bool = False
) -> str:
    """Write the ablations' tables, against `best`.

    Args:
        planned: all runs of the ablations.
        folder: gets ``summary-ablations.json`` and ``summary-ablations.md``.
        split: whose scenes were asked about.
        quick: marks everything as no evidence.

    Returns:
        What was written, for people.

    Raises:
        UserError: if none is finished.
    """
    summary = _summary(planned, split, ablations.BASELINE, quick)
    _write_tables(summary, folder, "summary-ablations")
    return f"{folder / 'summary-ablations.md'} and summary-ablations.json beside it are written"


def _summary(planned: Sequence[Planned], split: str, baseline: str, quick: bool) -> dict[str, Any]:
    summary = summarise(planned, split, baseline)
    if not summary["cells"]:
        raise UserError("no run of this study is finished: there is nothing to report")
    warning = NO_EVIDENCE if quick else FOR_CHOOSING if split == "dev" else ""
    return summary | {"warning": warning}


def _write_tables(summary: Mapping[str, Any], folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{name}.json", (json.dumps(summary) + "\n").encode())
    write_atomically(folder / f"{name}.md", write_summary(summary).encode())
