"""Text on its way to people: the one place through which a command prints and logs.

Names, ids, words, answers and errors of endpoints come from files and from others, and may hold
what a terminal obeys: escape sequences that retitle it, move the cursor or rewrite what stands
there. `printable` shows such characters instead; `say`, `log_to` and `open_console` let nothing
else through. `tests/test_terminal.py` holds that nothing in the package prints around them.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from rich.console import Console

# Control characters but for tab and line feed, line and paragraph separators, what turns the
# direction of text, and halves of characters, which no encoding can write.
_OBEYED = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return a text with what a terminal would obey written as escapes: ``\x1b[2J``."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(text: object = "", *, file: TextIO | None = None, end: str = "\n") -> None:
    """Print a text for people, at once; on stdout if no file is given."""
    print(printable(str(text)), file=file or sys.stdout, end=end, flush=True)


class _Record(logging.LogRecord):
    """What any logger says, also a library's of the names it meets in a checkpoint's files."""

    def getMessage(self) -> str:
        return printable(super().getMessage())


def log_to(stream: TextIO, *, force: bool = False) -> None:
    """Let a command log warnings and errors to a stream, the message alone.

    `force` takes the place of what logs already.
    """
    logging.setLogRecordFactory(_Record)
    logging.basicConfig(format="%(message)s", stream=stream, level=logging.WARNING, force=force)


def open_console(**options: Any) -> Console:
    """Return a rich console that shows what a terminal would obey; options are rich's."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class PrintableConsole(Console):
        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                text = segment.text if segment.control else printable(segment.text)
                yield segment._replace(text=text)

    return PrintableConsole(**options)


def without_password(url: str) -> str:
    """Return an address, broken ones too, as it may be shown: without user and password."""
    try:
        parts = urlsplit(url)
        if parts.netloc and "@" not in parts.netloc and parts.port != 0:
            return url
    except ValueError:  # who knows where its parts end
        pass
    before, at, after = url.rpartition("@")
    scheme, there, _ = before.partition("://")
    return f"{scheme + there if there else ''}{at and '***@'}{after}"
