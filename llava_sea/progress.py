"""Progress on stderr: tqdm's live bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from llava_sea.terminal import printable, say

_LOG_LINE = "{desc}: {n_fmt}/{total_fmt}, {remaining} left, {rate_fmt}{postfix}"


class Progress(tqdm):
    """A tqdm bar whose updates are lines of their own where stderr is no terminal."""

    monitor_interval = 0
    """No thread beside the bar: a process that forks data workers should have none."""

    def __init__(
        self,
        items: str,
        total: int | None = None,
        *,
        done: int = 0,
        every: float = 10.0,
        shown: bool = True,
        **more: Any,
    ) -> None:
        """Show the first state.

        Args:
            items: a plural ("images"), behind a name if there are several bars ("clip: steps").
            total: how many there are, if that is known.
            done: how many were done before; they do not count for the rate.
            every: seconds between two lines of a log.
            shown: False for all ranks but the first.
            more: tqdm's own.
        """
        live = sys.stderr.isatty()
        if not live:
            more |= {"mininterval": every, "maxinterval": every, "miniters": 0}
            if total is not None:
                more["bar_format"] = _LOG_LINE
        more |= {"unit": " " + items.rpartition(": ")[2], "file": sys.stderr}
        more |= {"dynamic_ncols": live, "disable": not shown}
        super().__init__(desc=items, total=total, initial=done, **more)

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        """Return the function that shows a state."""
        live = tqdm.status_printer(file) if file.isatty() else None
        return lambda text: live(printable(text)) if live else say(text, file=file)

    def close(self) -> None:
        """Take the bar down; a log ends with the last state."""
        if not self.disable and not self.fp.isatty():
            if self.n != self.last_print_n:
                self.refresh()
            self.sp = None  # or tqdm adds an empty line
        super().close()


Progress.set_lock(threading.RLock())  # tqdm's own is of all forked processes: one killed holds it
