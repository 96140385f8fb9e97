"""Problems printed as they are found, counted by kind, and the lengths of what was read."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

from llava_sea import terminal
from llava_sea.data.check_record import Checked
from llava_sea.data.problems import OF_LABELS, Kind, Problem

_CLEAR_LINE = Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2))


def open_console() -> Console:
    """Return a console on stdout that wraps and marks up nothing, in colour on a terminal."""
    return terminal.open_console(highlight=False, markup=False, emoji=False, soft_wrap=True)


class Findings:
    """Takes problems, prints and counts them."""

    def __init__(self, console: Console, max_problems: int) -> None:
        """Start with none.

        Args:
            console: where they go.
            max_problems: lines printed of a kind; 0 for all.
        """
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

    def add(self, problem: Problem, file: str) -> None:
        """Print a problem, unless there were enough of its kind, and count it."""
        kind = problem.kind
        self._count[kind] += 1
        if not self._max or self._count[kind] <= self._max:
            line = Text(problem.line(file))
            if self._console.is_terminal:  # the line may hold a progress bar, drawn anew by itself
                self._console.control(_CLEAR_LINE)
            line.highlight_words([kind.name], "yellow" if kind.is_warning else "bold red")
            self._console.print(line)
        elif self._count[kind] == self._max + 1:
            self._console.print(f"more of '{kind.name}' are counted only (see --max_problems)")

    def note(self, text: str) -> None:
        """Print a line that is no problem."""
        self._console.print(text)

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


class Lengths:
    """Numbers of tokens and of supervised tokens, 8 bytes a record."""

    def __init__(self) -> None:
        self.tokens = array("i")
        self.supervised = array("i")

    def add(self, checked: Checked) -> None:
        """Take note of a record; 0 where it could not be tokenised."""
        self.tokens.append(checked.num_tokens)
        self.supervised.append(checked.num_supervised)

    def lines(self) -> list[str]:
        """Say the least, the middle and the greatest."""
        rows = (("tokens with the picture's", self.tokens), ("supervised tokens", self.supervised))
        return [f"  {name:<25} {_spread(values)}" for name, values in rows]


def _spread(values: Sequence[int]) -> str:
    known = [value for value in values if value]
    if not known:
        return "none"
    return f"min {min(known)}  median {np.median(known):g}  max {max(known)}"
