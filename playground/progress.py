"""A plain progress line: what, how far, how fast, and the time left.

On a terminal the line rewrites itself; in a log a new line is written every half minute.
"""

from __future__ import annotations

import sys
import time


class Progress:
    """Counts steps and prints the state now and then on stderr."""

    def __init__(self, what: str, total: int, *, done: int = 0) -> None:
        """Start counting at `done` of `total`."""
        self.what, self.total, self.done = what, total, done
        self._first = done
        self._started = self._printed = time.monotonic()
        self._live = sys.stderr.isatty()
        self._every = 0.5 if self._live else 30.0

    def advance(self, note: str = "") -> None:
        """Count one step; `note` follows the numbers when the line is printed."""
        self.done += 1
        now = time.monotonic()
        if now - self._printed >= self._every:
            self._printed = now
            self._print(note)

    def close(self, note: str = "") -> None:
        """Print the last state."""
        self._print(note, end="\n")

    def _print(self, note: str, end: str | None = None) -> None:
        seconds = time.monotonic() - self._started
        rate = (self.done - self._first) / max(seconds, 1e-9)
        left = (self.total - self.done) / rate if rate else 0.0
        line = f"{self.what} {self.done}/{self.total}  {rate:.1f}/s  {left:.0f} s left  {note}"
        lead, tail = ("\r", "") if self._live else ("", "\n")
        print(f"{lead}{line:<90}", end=end or tail, file=sys.stderr, flush=True)
