"""How far the study is: a bar on a terminal, a line for every finished run in a log."""

from __future__ import annotations

import sys
from typing import Any

from playground.study.forecast import clock


class RunProgress:
    """Counts finished runs; a context manager."""

    def __init__(self, total: int, done: int) -> None:
        """Start at `done` of `total` runs."""
        self.total, self.done = total, done
        self._bar: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self._bar = Progress(
                TextColumn("runs"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}  {task.fields[left]} left "),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("", total=total, completed=done, left="?", note="")

    def __enter__(self) -> RunProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, note: str, seconds_left: float) -> None:
        """Count a run."""
        self.done += 1
        left = clock(seconds_left)
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, left=left, note=note)
        else:
            print(f"{self.done}/{self.total}, {left} left: {note}", file=sys.stderr, flush=True)
