"""Writes scripts/bench/README.md: how to run the benches, and what they measured, from their JSON.

`python scripts/bench/common/markdown.py`. Numbers are those that the benches wrote on the machine
that each file names; nothing is typed by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
README = RESULTS.with_name("README.md")
TEXT = """# Benches

Each number is taken side by side with the one it is compared to, in one run of the bench
(`python scripts/bench/miner.py`). `--quick` takes seconds and smaller sizes, `--device cuda` the
paper's shapes (written, never run: no GPU was at hand). `bash scripts/gpu_check.sh` runs the GPU's
tests and these benches within ten minutes and adds their rows, each with its device and date. All
rows are in `results/`; `pip install -e ".[bench]"` brings FAISS. "Asked" is a goal that was set
before the measurement.

The numbers are of the dates below the table. Miner, loss, labels and loading were rewritten on
29 November 2026 and have not been measured in full since.

- `miner`: the patch-word product of eq. 8 is screened in bfloat16 (where the processor has units
  for it) or float32; the bound on the rounding error says which few words are scored again.
- `alignment_loss`: logits are kept (two products) or made again in the backward pass (three
  products, one block of memory). The naive loss is two cross-entropies over the full matrix with
  autograd.
- `stage1`: the plain loop takes logits for every token; here only supervised tokens get logits.
  Differences of 1 to 2 % are noise; small shapes on a CPU are no forecast for a 7B.
- `stage2_packing`: against padded batches grouped as LLaVA groups them (sorted within a step),
  and as `--group_by_modality_length` does here (sorted within 50 steps), which leaves little
  padding. "Time" sums all ranks' work; "time of steps" is the wall time on eight devices.
- `records`: 665,000 synthetic records of LLaVA-665K's shape, measured on two cores. Memory is
  that of the processes themselves; pages of the mapped cache are shared and left out, the JSON's
  notes give them.

"""


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
        on_gpu = path.stem.endswith("-cuda")
        where = f" on {found['machine']}, {found['date']}" if on_gpu else ""
        for row in found["rows"]:
            if _is_shown(row) or (on_gpu and not row["what"].startswith(" ")):
                lines.append(f"| `{name}`{where} | {' | '.join(_cells(row))} |")
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


def write() -> Path:
    """Write README.md anew; return its place."""
    README.write_text(TEXT + table() + "\n")
    return README


if __name__ == "__main__":
    print(write())
