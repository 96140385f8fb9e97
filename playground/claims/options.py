"""The flags of ``python -m playground.claims`` and what can be wrong with them.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_sea.errors import UserError
from playground.claims.significance import MAX_EXACT
from playground.study.options import LLMS, PLAYGROUND, PRECISIONS, SPLITS, find_llm
from playground.world import Split

NONE = "none"
ARM_NAMES = ("plain", "sea-paper", "sea-paper-sign", "sea-best", "warm-best", NONE)
"""The study's arms without its upper bound, the one that was ahead of `best` in the ablations
(by less than their noise), and the one that leaves the projector untrained."""

ABLATION_NAMES = (
    *("plain", "sea-best", "weight-0.25", "weight-0.5", "weight-2", "constant", "tau-1"),
    *("window-1", "window-3", "top-1", "top-5", "top-10", "all", "soft", "mask"),
    *("warm-best", "warm-plain"),
)
"""The arms of ``--ablations``; see `playground.claims.ablations`."""
QUICK_ABLATIONS = ("plain", "sea-best", "weight-0.5", "mask", "warm-plain")

CHOSEN_ON = (0, 1, 2, 3, 4)
"""Seeds on which `best` was chosen, with dev scenes; the claims are measured on the next five."""

GRID_LENGTHS = {"llm-small": (40, 100, 250)}
OTHER_LENGTHS = (100,)
"""Steps of stage 1 in the main grid: more lengths for the smallest LLM."""

GRID_ARMS = {"llm-medium": ARM_NAMES[:-1], "llm-large": ARM_NAMES[:-2]}
"""Arms in the main grid where not all of them: larger LLMs take 6 and 14 times as long a run."""

DATA = PLAYGROUND / "data"
RESULTS = Path(__file__).parent / "results"
QUICK_RESULTS = DATA / "claims" / "quick"


@dataclass(frozen=True)
class Options:
    """What to run and where to put it."""

    llms: tuple[Path, ...]
    arms: tuple[str, ...] | None = None
    lengths: tuple[int, ...] | None = None
    """Both of every LLM; None is the main grid's."""
    seeds: tuple[int, ...] = (5, 6, 7, 8, 9)
    workers: int = 2
    clip: Path = PLAYGROUND / "models" / "clip"
    world: Path = DATA / "study"
    data: Path = DATA / "claims"
    results: Path = RESULTS
    page: Path = DATA / "claims" / "report.html"
    split: Split = "test"
    precision: str = "auto"
    quick: bool = False
    ablations: bool = False
    """Changes of `best` with that as the baseline, not the claims."""
    only_report: bool = False
    only_forecast: bool = False

    def lengths_of(self, llm: Path) -> tuple[int, ...]:
        """Return the lengths of stage 1 that an LLM is trained for."""
        grid: tuple[int, ...] = GRID_LENGTHS.get(llm.name, OTHER_LENGTHS)
        return self.lengths or grid

    def arms_of(self, llm: Path) -> tuple[str, ...]:
        """Return the arms that an LLM is trained in."""
        return self.arms or GRID_ARMS.get(llm.name, ARM_NAMES)

    def all_arms(self) -> list[str]:
        """Return the arms of any LLM, in their order."""
        return list(dict.fromkeys(arm for llm in self.llms for arm in self.arms_of(llm)))

    def is_part(self) -> bool:
        """Say whether these are not the runs that the committed results are of."""
        committed = RESULTS / "ablations" if self.ablations else RESULTS
        whole = parse_options(["--ablations"] if self.ablations else [])
        same = ("llms", "arms", "lengths", "seeds", "split")
        is_same = all(getattr(self, name) == getattr(whole, name) for name in same)
        return self.results.resolve() == committed and not is_same

    def checked(self) -> Options:
        """Return itself if a study can be made of it.

        Raises:
            UserError: naming the flag and the way out.
        """
        names = names_of(self.ablations)
        unknown = [arm for arm in self.all_arms() if arm not in names]
        if unknown or self.arms == ():
            given = " ".join(unknown) or "(nothing)"
            raise UserError(f"--arms {given}: choose from {', '.join(names)}")
        for flag, values in (("--lengths", self.lengths or (1,)), ("--workers", (self.workers,))):
            if min(values) < 1:
                raise UserError(f"{flag} {' '.join(map(str, values))}: must be at least 1")
        for flag, value, choices in (
            ("--split", self.split, SPLITS),
            ("--precision", self.precision, PRECISIONS),
        ):
            if value not in choices:
                raise UserError(f"{flag} {value}: choose one of {', '.join(choices)}")
        if len(self.seeds) > MAX_EXACT:
            raise UserError(
                f"--seeds: {len(self.seeds)} of them; the exact test of the report takes "
                f"{MAX_EXACT} at most"
            )
        llms = [folder.name for folder in self.llms]
        if not llms or len(set(llms)) < len(llms):
            raise UserError(f"--llms {' '.join(llms)}: name each LLM's folder once")
        for flag, folder in (("--clip", self.clip), *(("--llms", llm) for llm in self.llms)):
            if not (folder / "config.json").is_file():
                raise UserError(
                    f"{flag} {folder}: no model there; give a folder, or make the world's models "
                    "with `python -m playground.build`"
                )
        if self.page.is_dir():
            raise UserError(f"--output {self.page}: is a folder; name the HTML file")
        return self


def _in_order(arms: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Return arms as they are known, those that are not last."""
    return *(arm for arm in names if arm in arms), *(arm for arm in arms if arm not in names)


def names_of(ablations: bool) -> tuple[str, ...]:
    """Return the names of the arms that there are, in their order."""
    return ABLATION_NAMES if ablations else ARM_NAMES


def parse_seeds(given: Sequence[str]) -> tuple[int, ...]:
    """Return the seeds of ``FIRST COUNT`` or ``FIRST-LAST``.

    Raises:
        UserError: if it is neither.
    """
    text = " ".join(given)
    if match := re.fullmatch(r"(\d+) (\d+)", text):
        first, count = map(int, match.groups())
        seeds = range(first, first + count)
    elif match := re.fullmatch(r"(\d+)-(\d+)", text):
        first, last = map(int, match.groups())
        seeds = range(first, last + 1)
    else:
        raise UserError(f"--seeds {text}: give FIRST COUNT, as 0 5, or a range, as 0-4")
    if not seeds:
        raise UserError(f"--seeds {text}: names no seed")
    return tuple(seeds)


def parse_options(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line.

    Raises:
        UserError: if a value cannot be.
    """
    parser = argparse.ArgumentParser(
        prog="python -m playground.claims",
        description="The paper's claims on the miniature world, through both stages: every LLM, "
        "length of stage 1, arm and seed. Stop it at any moment; the same command goes on.",
        allow_abbrev=False,
    )
    default = Options(llms=())
    add = parser.add_argument
    add("--llms", nargs="+", help="folders, or names in playground/models (default: all three)")
    add("--arms", nargs="+", help=f"of {', '.join(ARM_NAMES)} (default: all for llm-small, "
        "fewer for the others)")  # fmt: skip
    add("--lengths", nargs="+", type=int, help="steps of stage 1, for every LLM named (default: "
        "40 100 250 for llm-small, 100 for the others)")  # fmt: skip
    add(
        "--seeds",
        nargs="+",
        help="FIRST COUNT, or a range (default: 5-9; on 0-4 `best` was chosen)",
    )
    add("--split", help="scenes asked about: test (the default), or dev to choose")
    add("--workers", type=int, default=default.workers, help="processes of one thread (default 2)")
    add("--clip", type=Path, default=default.clip, help="the vision tower with its text tower")
    add("--world", type=Path, default=default.world, help="pictures, labels, features of stage 1")
    add("--data", type=Path, default=default.data, help="the miniature eight and their features")
    add("--results", type=Path, help=f"finished runs, summary.json, summary.md ({RESULTS})")
    add("--output", type=Path, help=f"the page ({default.page}); --ablations has none")
    add("--precision", default=default.precision, help="auto: bfloat16 where the CPU multiplies it")
    add("--report", action="store_true", help="write the report of what there is, no run")
    add("--forecast", action="store_true", help="say how long the runs that are left will take")
    add("--quick", action="store_true", help="llm-small, 40 steps, plain and sea-best, two seeds: "
        "shows that all works in minutes, and is no evidence")  # fmt: skip
    add("--ablations", action="store_true", help="not the claims, but changes of sea-best one at "
        "a time: llm-small, 100 steps, seeds 0-2, dev scenes, tables in the results' folder "
        "ablations; the other flags change that")  # fmt: skip
    given = parser.parse_args(arguments)
    quick, ablations = bool(given.quick), bool(given.ablations)
    if ablations and given.output:
        raise UserError(
            f"--output {given.output}: --ablations has tables and no page; leave it out"
        )
    names = names_of(ablations)
    few_llms: tuple[str, ...] = LLMS
    few_lengths: tuple[int, ...] | None = None
    few_arms: tuple[str, ...] | None = None
    few_seeds = default.seeds
    if ablations:
        few_arms = names
        few_llms, few_lengths, few_seeds = ("llm-small",), OTHER_LENGTHS, CHOSEN_ON[:3]
    if quick:
        few_llms, few_lengths, few_seeds = ("llm-small",), (40,), CHOSEN_ON[:2]
        few_arms = QUICK_ABLATIONS if ablations else ("plain", "sea-best")
    llms, arms = given.llms or few_llms, given.arms or few_arms
    lengths = given.lengths or few_lengths
    seeds = parse_seeds(given.seeds) if given.seeds else few_seeds
    results = QUICK_RESULTS if quick else RESULTS
    quick_page = QUICK_RESULTS / "report.html"
    return Options(
        llms=tuple(find_llm(name) for name in llms),
        arms=_in_order(arms, names) if arms else None,
        lengths=tuple(sorted(set(lengths))) if lengths else None,
        seeds=seeds,
        workers=given.workers,
        clip=given.clip,
        world=given.world,
        data=given.data,
        results=given.results or (results / "ablations" if ablations else results),
        page=given.output or (quick_page if quick else default.page),
        split=given.split or ("dev" if ablations else default.split),
        precision=given.precision,
        quick=quick,
        ablations=ablations,
        only_report=given.report,
        only_forecast=given.forecast,
    ).checked()
