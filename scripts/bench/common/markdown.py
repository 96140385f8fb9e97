"""The README's table of measured ratios, from the benches' JSON.

`python scripts/bench/common/markdown.py` prints it. Numbers are those that the benches wrote on
the machine that each file names; nothing is typed by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"


def table(folder: Path = RESULTS) -> str:
    """Return a Markdown table of the full runs' goals and ratios, and a line on each machine."""
    lines = ["| bench | what | reached | asked | |", "| --- | --- | --- | --- | --- |"]
    machines: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found = json.loads(path.read_text())
        except ValueError as error:
            raise SystemExit(f"{path}: not JSON ({error}); run its bench again") from None
        name = path.stem.rpartition("-")[0]
        versions = found["versions"]
        packages = ", ".join(f"{key} {value}" for key, value in versions.items())
        machines.setdefault(f"{found['machine']}, {found['date']}; {packages}", []).append(name)
        for row in filter(_is_shown, found["rows"]):
            lines.append(f"| `{name}` | {' | '.join(_cells(row))} |")
    notes = [f"{', '.join(names)}: {machine}." for machine, names in machines.items()]
    return "\n".join([*lines, "", *notes])


def _is_shown(row: dict[str, Any]) -> bool:
    """Leave out what explains another row (it is indented), and single commands' start."""
    explains = row["what"].startswith((" ", "python -m"))
    return not explains and (row["asked"] is not None or " / " in row["what"])


def _cells(row: dict[str, Any]) -> list[str]:
    asked = "" if row["asked"] is None else f"{row['sense']} {row['asked']:g}"
    reached = "-" if row["reached"] is None else f"{row['reached']:.3g}"
    verdict = {"MISSED": "**missed**", "not measured": "not measured"}.get(row["verdict"], "")
    return [row["what"], reached, asked, verdict]


if __name__ == "__main__":
    print(table())
