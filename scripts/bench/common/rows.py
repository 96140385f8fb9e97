"""A bench's rows: what was reached, what is asked, and whether that is met.

Each bench prints one table and writes the same as JSON, with the machine, the versions and the
date. A row that misses its bar says so and does not fail: the bars are for a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from llava_sea.errors import run_command

RESULTS = Path(__file__).parents[1] / "results"
"""Of full runs; committed, README.md's numbers."""
QUICK_RESULTS = Path(__file__).parents[3] / "runs" / "bench"
_VERSIONS = ("torch", "transformers", "deepspeed", "numpy", "faiss-cpu", "flash-attn", "triton")


@dataclass(frozen=True)
class Row:
    """One measured number.

    Attributes:
        what: the quantity, with its unit or "x" for a ratio, e.g. "time / matmul, x".
        reached: measured; None where it could not be, `note` says why.
        asked: the bar; None where nothing is asked of the number.
        sense: whether `reached` must be at most or at least `asked`.
        note: sizes, what it was measured against.
    """

    what: str
    reached: float | None
    asked: float | None = None
    sense: Literal["<=", ">="] = "<="
    note: str = ""

    @property
    def verdict(self) -> str:
        """Say "met", "MISSED", "not measured", or nothing where nothing is asked."""
        if self.reached is None:
            return "not measured"
        if self.asked is None:
            return ""
        met = self.reached <= self.asked if self.sense == "<=" else self.reached >= self.asked
        return "met" if met else "MISSED"


def bench_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the flags that every bench has: --quick, --device, --json."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="seconds, not minutes: small sizes")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="where the rows go, as JSON")
    return parser


def read_flags(parser: argparse.ArgumentParser, name: str, *, cuda: bool) -> argparse.Namespace:
    """Parse the flags; what would fail after minutes of measuring is refused here.

    Args:
        parser: from `bench_parser`.
        name: of the bench.
        cuda: whether anything of it runs on a GPU.
    """
    args = parser.parse_args()
    if args.device == "cuda":
        import torch

        if not cuda:
            parser.error("--device cuda: nothing of this bench runs on a GPU; leave it out")
        if not torch.cuda.is_available():
            parser.error("--device cuda: torch sees no GPU here")
    path = _path(name, args)
    try:
        if path.is_dir():
            parser.error(f"--json {path}: is a folder, name a file in it")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        parser.error(f"{path} cannot be written ({error.strerror}); name another file with --json")
    return args


def _path(name: str, args: argparse.Namespace) -> Path:
    folder = QUICK_RESULTS if args.quick else RESULTS
    return args.json or folder / f"{name}-{args.device}.json"


def report(name: str, args: argparse.Namespace, rows: Sequence[Row]) -> None:
    """Print the rows as a table and write them with the machine, the versions and the date.

    Args:
        name: of the bench, the JSON file's too.
        args: from `read_flags`.
        rows: what was measured.
    """
    from rich.console import Console
    from rich.table import Table

    about = machine(args.device)
    size = "quick sizes, not the table's" if args.quick else "full sizes"
    print(f"{name}: {size}; {about['machine']}, {about['date']}")
    table = Table()
    for column in ("what", "reached", "asked", "", "note"):
        table.add_column(column, overflow="fold")
    for row in rows:
        asked = "" if row.asked is None else f"{row.sense} {row.asked:g}"
        reached = "-" if row.reached is None else f"{row.reached:.4g}"
        table.add_row(row.what, reached, asked, row.verdict, row.note)
    Console(width=max(100, Console().width)).print(table)
    found = [asdict(row) | {"verdict": row.verdict} for row in rows]
    _path(name, args).write_text(
        json.dumps(about | {"quick": args.quick, "rows": found}, indent=1) + "\n"
    )


def machine(device: str) -> dict[str, object]:
    """Return the machine's name, the versions of what matters, and the date."""
    import torch

    if device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        name = f"{os.cpu_count()} x {_cpu_name()}, {torch.get_num_threads()} threads"
    versions = {"python": platform.python_version()}
    for package in _VERSIONS:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"machine": name, "versions": versions, "date": date.today().isoformat()}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def run_bench(
    name: str,
    description: str | None,
    measure: Callable[[argparse.Namespace], Sequence[Row]],
    *,
    cuda: bool = True,
) -> None:
    """Read the flags, measure, report; `cuda` says whether anything of it runs on a GPU."""
    args = read_flags(bench_parser(description), name, cuda=cuda)
    run_command(lambda: report(name, args, measure(args)))
