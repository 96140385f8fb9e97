"""The page: its lines, the verdict, and the JSON file of both for a report of a fault."""

from __future__ import annotations

import json
import os
import re
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llava_sea.errors import UserError, cannot_write, failed_write
from llava_sea.files import write_atomically
from llava_sea.labels.sign import finite
from llava_sea.terminal import say

OK, WARNING, RED = "ok", "warning", "RED"

_PUT_IT_THERE = "put it there, or name the right path (data: scripts/recipes/README.md)"
_NOT_THERE = {
    "couldn't connect to": "fetch it where there is a network (hf download NAME), or name a folder",
    "No such file or directory": _PUT_IT_THERE,
    "no such folder": _PUT_IT_THERE,
}
"""The ways out of errors that only say what is missing."""


@dataclass
class Line:
    """One line: what was looked at, what was found, and where it is not well the way out."""

    name: str
    found: str
    state: str = OK
    way_out: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    """Numbers for the JSON file."""


def red(name: str, found: str, way_out: str, **details: Any) -> Line:
    """Make a line that keeps the run from starting."""
    return Line(name, found, RED, way_out, details)


class Page:
    """Takes lines as they are found, prints them, keeps them."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._start = time.monotonic()

    def add(self, *lines: Line) -> None:
        """Print lines and keep them."""
        for line in lines:
            self.lines.append(line)
            say(f"{line.state:<8} {line.name:<16} {line.found}")
            if line.way_out:
                say(f"{'':<8} {'':<16} -> {line.way_out}")

    def check(self, name: str, look: Callable[..., Line | Sequence[Line]], *given: Any) -> bool:
        """Add what a function finds; an error of its own is a red line. Say whether all is well."""
        start, before = time.monotonic(), len(self.lines)
        try:
            found = look(*given)
            self.add(*([found] if isinstance(found, Line) else found))
        except UserError as error:  # its text has the way out, but for what is not there at all
            told = str(error)
            ways = (way for missing, way in _NOT_THERE.items() if missing in told)
            line = Line(name, told, RED, next(ways, ""))
            same = next((one.name for one in self.bad if one.found == told), None)
            if same:  # one missing file keeps several lines from looking
                line = Line(name, f"not looked at: see {same}, RED above", WARNING)
            self.add(line)
        except Exception as error:
            if failed := failed_write(error):
                self.add(Line(name, cannot_write(failed), RED))
                return False
            told = (str(error).strip().splitlines() or [""])[0][:300]
            way_out = "perhaps a fault of llava_sea: report it, with this page's JSON file"
            trace = traceback.format_exc()
            self.add(red(name, f"{type(error).__name__}: {told}", way_out, traceback=trace))
        for line in self.lines[before:]:
            line.details.setdefault("seconds", round(time.monotonic() - start, 2))
        return all(line.state != RED for line in self.lines[before:])

    @property
    def bad(self) -> list[Line]:
        """The red lines."""
        return [line for line in self.lines if line.state == RED]

    def verdict(self, if_ready: str) -> str:
        """Return the last line."""
        if self.bad:
            names = ", ".join(dict.fromkeys(line.name for line in self.bad))
            return f"NOT READY: {len(self.bad)} red ({names}); each line says what to change"
        doubts = sum(line.state == WARNING for line in self.lines)
        told = f" ({doubts} warning{'s' * (doubts > 1)})" if doubts else ""
        return f"READY{told}: {if_ready}"

    def write(self, path: Path, verdict: str, **about: Any) -> None:
        """Write everything as JSON, without home folders and secrets."""
        seconds = round(time.monotonic() - self._start, 1)
        whole = about | {"seconds": seconds, "verdict": verdict, "lines": map(asdict, self.lines)}
        text = json.dumps(finite(whole | {"lines": [finite(v) for v in whole["lines"]]}), indent=1)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (redact(text) + "\n").encode())


_SECRET = re.compile(r"\b(hf_|sk-|ghp_|github_pat_)[A-Za-z0-9_-]{8,}")
_NAMES = re.compile("TOKEN|SECRET|PASSWORD|API_?KEY|CREDENTIAL")


def redact(text: str) -> str:
    """Take the home folder and what looks like a key out of a text."""
    for name, value in os.environ.items():
        if _NAMES.search(name) and len(value) >= 12 and not value.startswith("/"):
            text = text.replace(value, "***")
    home = str(Path.home())
    return _SECRET.sub("***", text.replace(home, "~") if len(home) > 3 else text)
