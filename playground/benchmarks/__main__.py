"""Write the miniature eight (``python -m playground.benchmarks``); seconds, or none when done."""

from __future__ import annotations

import argparse
from pathlib import Path

from llava_sea.errors import run_command
from playground.benchmarks.build import DEFAULT_OUT, build


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``python -m playground.benchmarks``."""
    parser = argparse.ArgumentParser(
        prog="python -m playground.benchmarks", description="Write the miniature benchmarks."
    )
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder that gets them")
    parser.add_argument("--seed", type=int, default=0, help="decides every scene and question")
    options = parser.parse_args(arguments)
    counts = build(options.out, options.seed)
    asked = ", ".join(f"{name} {count}" for name, count in counts.items())
    print(f"{options.out} is ready: {asked}")


if __name__ == "__main__":
    run_command(main)
