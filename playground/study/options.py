"""The flags of ``python -m playground.study`` and what can be wrong with them.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_sea.errors import UserError
from playground.world import Split

PLAYGROUND = Path(__file__).parent.parent
LLMS = ("llm-small", "llm-medium", "llm-large")
ARM_NAMES = ("plain", "sea-paper", "sea-paper-sign", "sea-best", "sea-true")
PRECISIONS = ("auto", "bfloat16", "float32")
SPLITS = ("test", "dev")


@dataclass(frozen=True)
class Options:
    """What to run and where to put it."""

    llms: tuple[Path, ...]
    arms: tuple[str, ...] = ARM_NAMES
    lengths: tuple[int, ...] = (40, 100, 250)
    seeds: int = 5
    workers: int = 2
    clip: Path = PLAYGROUND / "models" / "clip"
    output: Path = PLAYGROUND / "data" / "study"
    results: Path = Path(__file__).parent / "results"
    split: Split = "test"
    precision: str = "auto"
    only_report: bool = False
    only_forecast: bool = False

    def checked(self) -> Options:
        """Return itself if a study can be made of it.

        Raises:
            UserError: naming the flag and the way out.
        """
        unknown = [arm for arm in self.arms if arm not in ARM_NAMES]
        if unknown or not self.arms:
            given = " ".join(unknown) or "(nothing)"
            raise UserError(f"--arms {given}: choose from {', '.join(ARM_NAMES)}")
        for flag, values in (("--lengths", self.lengths), ("--seeds", (self.seeds,))):
            if not values or min(values) < 1:
                raise UserError(f"{flag} {' '.join(map(str, values))}: must be at least 1")
        if self.workers < 1:
            raise UserError(f"--workers {self.workers}: must be at least 1")
        for flag, value, choices in (
            ("--split", self.split, SPLITS),
            ("--precision", self.precision, PRECISIONS),
        ):
            if value not in choices:
                raise UserError(f"{flag} {value}: choose one of {', '.join(choices)}")
        names = [folder.name for folder in self.llms]
        if not names or len(set(names)) < len(names):
            raise UserError(f"--llms {' '.join(names)}: name each LLM's folder once")
        for flag, folder in (("--clip", self.clip), *(("--llms", llm) for llm in self.llms)):
            if not (folder / "config.json").is_file():
                raise UserError(
                    f"{flag} {folder}: no model there; give a folder, or make the world's models "
                    "with `python -m playground.build`"
                )
        return self


def find_llm(name: str) -> Path:
    """Return the folder of an LLM: the path itself, else one of the world's models."""
    return Path(name) if Path(name).is_dir() else PLAYGROUND / "models" / name


def parse_options(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line.

    Raises:
        UserError: if a value cannot be.
    """
    parser = argparse.ArgumentParser(
        prog="python -m playground.study",
        description="Stage 1 with and without SEA on the miniature world: every LLM, length, arm "
        "and seed. Stop it at any moment; the same command goes on.",
        allow_abbrev=False,
    )
    default = Options(llms=())
    add = parser.add_argument
    add("--llms", nargs="+", default=LLMS, help="folders, or names in playground/models")
    add("--arms", nargs="+", default=default.arms, help=f"of {', '.join(ARM_NAMES)}")
    add("--lengths", nargs="+", type=int, default=default.lengths, help="steps of stage 1")
    add("--seeds", type=int, default=default.seeds, help="seeds 0, 1, ... (default 5)")
    add("--workers", type=int, default=default.workers, help="processes of one thread (default 2)")
    add("--clip", type=Path, default=default.clip, help="the vision tower with its text tower")
    add("--output", type=Path, default=default.output, help="pictures, labels and features")
    add("--results", type=Path, default=default.results, help="finished runs, tables and pictures")
    add("--split", default=default.split, help="scenes that are measured: test, or dev to choose")
    add(
        "--precision",
        default=default.precision,
        help="of the frozen LLM: auto is bfloat16 where the CPU multiplies it, else float32",
    )
    add("--report", action="store_true", help="write tables and pictures of what there is, no run")
    add("--forecast", action="store_true", help="say how long the runs that are left will take")
    given = parser.parse_args(arguments)
    return Options(
        llms=tuple(find_llm(name) for name in given.llms),
        arms=tuple(arm for arm in ARM_NAMES if arm in given.arms)
        + tuple(arm for arm in given.arms if arm not in ARM_NAMES),
        lengths=tuple(sorted(set(given.lengths))),
        seeds=given.seeds,
        workers=given.workers,
        clip=given.clip,
        output=given.output,
        results=given.results,
        split=given.split,
        precision=given.precision,
        only_report=given.report,
        only_forecast=given.forecast,
    ).checked()
