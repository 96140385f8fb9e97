"""Steps counted one by one, shown as `llava_sea.progress` does."""

from __future__ import annotations

from llava_sea.progress import Progress as Shown


class Progress:
    """Counts steps and shows the state on stderr."""

    def __init__(self, what: str, total: int, *, done: int = 0) -> None:
        """Start counting at `done` of `total`."""
        self.what, self.total, self.done = what, total, done
        self._shown = Shown(seconds_between_lines=30.0)
        self._shown.start()
        self._shown(what, done, total)

    def advance(self, note: str = "") -> None:
        """Count one step; `note` follows the numbers."""
        self.done += 1
        self._shown(self.what, self.done, self.total, note)

    def close(self) -> None:
        """Take the bar down."""
        self._shown.stop()
