"""How far a long work is: a bar on a terminal, a line now and then in a log, both on stderr."""

from __future__ import annotations

import atexit
import math
import sys
import time
from collections.abc import Callable
from typing import Any

from llava_sea.terminal import open_console, say

OnProgress = Callable[[str, int, int], None]
"""What a function calls with what it counts, how many are done, and how many there are."""


class Progress:
    """Shows how much of a phase is done, the time left, its rate and what is said about it.

    A context manager: the bar is taken down at its end, also after an error.
    """

    def __init__(self, seconds_between_lines: float = 10.0) -> None:
        """Show nothing yet; the pause is for logs, where a phase's end is written in any case."""
        self._pause = seconds_between_lines
        self._first: dict[str, tuple[float, float]] = {}
        self._tasks: dict[str, Any] = {}
        self._bar: Any = None
        self._written = -math.inf
        if sys.stderr.isatty():
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar
            from rich.table import Column

            line = Column(no_wrap=True, overflow="ellipsis")
            text = TextColumn("{task.fields[text]}", markup=False, table_column=line)
            # What a command prints goes where it always does, also while the bar is up.
            redirect = sys.stdout.isatty()
            self._bar = Bar(
                BarColumn(bar_width=20),
                text,
                console=open_console(stderr=True),
                redirect_stdout=redirect,
            )

    def __enter__(self) -> Progress:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Put the bar up."""
        if self._bar is not None:
            self._bar.start()
            atexit.register(self._bar.stop)  # where nobody stops it, the cursor stays hidden

    def stop(self) -> None:
        """Take the bar down."""
        if self._bar is not None:
            self._bar.stop()

    def __call__(
        self,
        phase: str,
        done: float,
        total: float,
        note: str = "",
        seconds_left: float | None = None,
    ) -> None:
        """Take note of a state; the first of a phase starts its clock.

        Args:
            phase: what is counted, a plural ("pictures"), behind whose it is ("clip: steps").
            done: how many are done; those of the first state do not count for the rate.
            total: how many there are.
            note: is shown behind the numbers, as far as a terminal is wide enough.
            seconds_left: an estimate better than what the rate gives, which is then not shown.
        """
        now = time.monotonic()
        begun, at_first = self._first.setdefault(phase, (now, done))
        rate = (done - at_first) / (now - begun) if now > begun else 0.0
        speed = ""
        if seconds_left is None:
            seconds_left = (total - done) / rate if rate > 0 else math.nan
            if rate > 0:
                unit = phase.rpartition(": ")[2]
                speed = f"{rate:,.1f} {unit}/s" if rate >= 1 else f"{1 / rate:,.1f} s each"
        parts = [f"{done:,}/{total:,}", f"{clock(seconds_left)} left", speed, note]
        text = f"{phase}: {', '.join(part for part in parts if part)}"
        if self._bar is not None:
            if phase not in self._tasks:
                self._tasks[phase] = self._bar.add_task("", total=total, text="")
            self._bar.update(self._tasks[phase], completed=done, text=text)
        elif now - self._written >= self._pause or done == total:
            self._written = now
            say(text, file=sys.stderr)


def clock(seconds: float) -> str:
    """Write seconds as h:mm:ss; nan is a question mark."""
    if math.isnan(seconds):
        return "?"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def counter(progress: OnProgress | None, phase: str, total: int) -> Callable[[int], None]:
    """Return what counts a phase's steps, some at a time, and shows them if there is a progress."""
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(phase, done, total)

    return count
