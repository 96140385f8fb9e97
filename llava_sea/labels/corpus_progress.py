"""How far a pass over a corpus is: a bar on a terminal, a plain line now and then elsewhere.

Written to stderr, so that a command's results stay alone on stdout.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType

PLAIN_SECONDS = 10.0


class CorpusProgress:
    """Progress in bytes of the corpus, with captions done and captions per second."""

    def __init__(self, total_bytes: int, what: str = "captions") -> None:
        self._total = max(total_bytes, 1)
        self._what = what
        self._start = self._last = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:3.0f}%"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(what, total=self._total)

    def __enter__(self) -> CorpusProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, bytes_done: int, items_done: int) -> None:
        """Say how much is done."""
        now = time.monotonic()
        seconds = max(now - self._start, 1e-9)
        text = f"{items_done:,} {self._what}, {items_done / seconds:,.0f}/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=bytes_done, description=text)
        elif now - self._last >= PLAIN_SECONDS:
            self._last = now
            left = seconds * (self._total / max(bytes_done, 1) - 1)
            share = 100 * bytes_done / self._total
            print(f"{share:3.0f}% {text}, {left:,.0f} s left", file=sys.stderr, flush=True)
