"""Write what finished runs say: ``results.json``, ``study.md``, ``summary.md``, pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from llava_sea.files import write_atomically
from playground.study.arms import ARMS
from playground.study.figure import draw_study
from playground.study.plan import Planned
from playground.study.prepare import World, precision_of
from playground.study.results import collect
from playground.study.tables import write_report, write_summary


def report(planned: Sequence[Planned], world: World, folder: Path) -> Path | None:
    """Write the report of the runs that are finished.

    Args:
        planned: all runs of the study.
        world: for the precision of its labels.
        folder: gets the files.

    Returns:
        The Markdown file; None if no run is finished.
    """
    arms = dict.fromkeys(p.run.arm for p in planned)
    results = collect(planned, {arm: precision_of(world, ARMS[arm]) for arm in arms})
    if not results["cells"]:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "results.json", json.dumps(results).encode())
    draw_study(results, folder)
    write_atomically(folder / "summary.md", write_summary(results).encode())
    path = folder / "study.md"
    write_atomically(path, write_report(results).encode())
    return path
