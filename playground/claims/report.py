"""Write what finished runs say: ``summary.json``, ``summary.md`` and a page of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from llava_sea.errors import UserError
from llava_sea.files import write_atomically
from playground.claims.page import write_page
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
) -> None:
    """Write the report of the runs that are finished.

    Args:
        planned: all runs of the study.
        folder: gets ``summary.json`` and ``summary.md``.
        page: the HTML file.
        split: whose scenes were asked about.
        quick: marks everything as no evidence.

    Raises:
        UserError: if none is finished.
    """
    summary = summarise(planned, split)
    if not summary["cells"]:
        raise UserError("no run of this study is finished: there is nothing to report")
    warning = NO_EVIDENCE if quick else FOR_CHOOSING if split == "dev" else ""
    summary["warning"] = warning
    for path, content in (
        (folder / "summary.json", json.dumps(summary) + "\n"),
        (folder / "summary.md", write_summary(summary)),
        (page, write_page(summary)),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.encode())
