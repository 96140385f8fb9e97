"""How far an extraction is: a bar on a terminal, a line every ten seconds in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

_SECONDS = 10.0


class ExtractProgress:
    """Shows what is done of a phase, the rate and the time left; a context manager."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}
        self._since: dict[str, float] = {}
        self._shown = 0.0
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[rate]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )

    def __enter__(self) -> ExtractProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Take note of a phase's state; the first call of a phase starts its clock."""
        now = time.monotonic()
        seconds = now - self._since.setdefault(phase, now)
        rate = f"{done / seconds:.1f} {phase}/s" if seconds else ""
        if self._bar is not None:
            if phase not in self._tasks:
                self._tasks[phase] = self._bar.add_task(phase, total=total, rate="")
            self._bar.update(self._tasks[phase], completed=done, rate=rate)
        elif now - self._shown >= _SECONDS or done == total:
            self._shown = now
            left = seconds * (total - done) / done if done else 0.0
            clock = f", {int(left) // 3600}:{int(left) // 60 % 60:02d}:{int(left) % 60:02d} left"
            note = f", {rate}{clock if done else ''}" if rate else ""
            print(f"{phase}: {done}/{total}{note}", file=sys.stderr, flush=True)


def counter(
    progress: Callable[[str, int, int], None] | None, phase: str, total: int
) -> Callable[[int], None]:
    """Return what counts a phase's steps, some at a time, and shows them if there is a progress."""
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(phase, done, total)

    return count
