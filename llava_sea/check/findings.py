"""Problems printed as they are found and counted by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

from llava_sea import terminal
from llava_sea.data.problems import OF_LABELS, Kind, RecordError, record_name

_CLEAR_LINE = Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2))


def open_console() -> Console:
    """Return a console on stdout that wraps and marks up nothing, in colour on a terminal."""
    return terminal.open_console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def line(problem: RecordError) -> str:
    """Write a problem on one line: file, record, kind, what it is, the way out."""
    kind, what = problem.kind, problem.what
    if kind.way_out not in what:
        what = f"{what}; {kind.way_out}"
    parts = [
        problem.file,
        record_name(problem.index, problem.id),
        ("warning, " if kind.is_warning else "") + kind.name,
        " ".join(what.split()),
    ]
    return ": ".join(str(part) for part in parts if part)


class Findings:
    """Takes problems, prints and counts them."""

    def __init__(self, console: Console, max_problems: int) -> None:
        """Print at most `max_problems` lines of a kind to a console; 0 prints all."""
        self._console = console
        self._max = max_problems
        self._count: Counter[Kind] = Counter()

    @property
    def num_problems(self) -> int:
        """How many there are, warnings left out."""
        return sum(n for kind, n in self._count.items() if not kind.is_warning)

    @property
    def num_unreadable(self) -> int:
        """How many of them keep a record from being read; those of the labels do not."""
        return self.num_problems - sum(self._count[kind] for kind in OF_LABELS)

    def add(self, problem: RecordError) -> None:
        """Print a problem, unless there were enough of its kind, and count it."""
        kind = problem.kind
        self._count[kind] += 1
        if not self._max or self._count[kind] <= self._max:
            text = Text(line(problem))
            if self._console.is_terminal:  # the line may hold a progress bar, drawn anew by itself
                self._console.control(_CLEAR_LINE)
            text.highlight_words([kind.name], "yellow" if kind.is_warning else "bold red")
            self._console.print(text)
        elif self._count[kind] == self._max + 1:
            self._console.print(f"more of '{kind.name}' are counted only (see --max_problems)")

    def note(self, text: str) -> None:
        """Print a line that is no problem."""
        self._console.print(text)

    def spread(self, name: str, values: Sequence[int]) -> None:
        """Print the least, the middle and the greatest of some counts; 0 is unknown."""
        known = [value for value in values if value] or [0]
        text = f"min {min(known)}  median {median(known):g}  max {max(known)}"
        self.note(f"  {name:<25} {text if any(known) else 'none'}")

    def summary(self) -> None:
        """Print the number of each kind and its way out."""
        print_line = self._console.print
        for is_warning, name in ((False, "problem"), (True, "warning")):
            kinds = [kind for kind in self._count if kind.is_warning is is_warning]
            total = sum(self._count[kind] for kind in kinds)
            if not is_warning or total:
                print_line(f"{total or 'no'} {name}{'' if total == 1 else 's'}")
            for kind in sorted(kinds, key=lambda kind: -self._count[kind]):
                print_line(f"  {self._count[kind]:>9,}  {kind.name:<25} {kind.way_out}")
