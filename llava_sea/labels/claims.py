"""Which process does a piece of work: claims in a folder that all of them see, and nothing else.

A claim is a file that names its holder, made with O_EXCL; a thread of the holder touches it each
second. It is taken over when the holder is dead: at once where both run on one machine, after
`SILENCE_S` without a touch where they do not (times are the file system's own, clocks may differ).
A holder that was presumed dead and lives only does what another does too: work is published
atomically, is the same whoever does it, and is looked for before it is begun.

One that fails by a `UserError` leaves it in the file ``failed``, which ends the others within
seconds. Those that begin later pass over it: they resume.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from llava_sea.errors import UserError
from llava_sea.files import host_name, is_alive, write_atomically
from llava_sea.processes import FailedElsewhereError

SILENCE_S = 60.0
_BEAT_S = 1.0
_POLL_S = 0.2

Item = TypeVar("Item")


def is_there(path: Path) -> bool:
    """Say whether a name is in its folder, which is read: NFS may remember that it was not."""
    try:
        return path.name in os.listdir(path.parent)
    except (FileNotFoundError, NotADirectoryError):
        return False


class Claims:
    """The claims of this process, which holds one at a time."""

    def __init__(self, folder: Path, *, speaks: bool = True) -> None:
        """Claim nothing yet; `speaks`: whether this process repeats the error of another."""
        self.folder, self._speaks = folder, speaks
        self._host, self._mark = host_name(), f"{host_name()} {os.getpid()}"
        self._held: Path | None = None
        self._since = 0.0
        self._failure: str | None = None
        self._closed = threading.Event()

    def listen(self) -> None:
        """Join: keep what is held, and hear of the failures of others from now on."""
        self._since = self._now()
        threading.Thread(target=self._beat, daemon=True).start()

    @property
    def joined(self) -> bool:
        """Whether this process has come to `listen`."""
        return self._since > 0

    def close(self) -> None:
        """Let go of what is held, so that another need not wait."""
        self._closed.set()
        self.release()

    def take(self, name: str) -> bool:
        """Claim a piece of work; False while another process has it.

        Raises:
            FileNotFoundError: if the folder is gone: the last one was done with all the work.
            UserError: as `check`.
        """
        path = self.folder / name
        self._hear()  # before a claim that a failed process has let go
        self.check()
        try:
            if path.exists() and self._is_dead(path):
                path.unlink()
            with open(path, "x") as file:
                file.write(self._mark)
        except FileExistsError:
            return False
        except FileNotFoundError:  # another has taken it over, or let it go
            if not self.folder.is_dir():
                raise
            return False
        self._held = path
        return True

    def release(self) -> None:
        """Let go of what is held, unless another has taken it over."""
        if self._held is not None:
            with suppress(OSError):
                if self._held.read_text() == self._mark:
                    self._held.unlink()
        self._held = None

    def once(self, name: str, done: Callable[[], bool], make: Callable[[], object]) -> None:
        """Have one process do a piece of work; return when it is done, by whomever."""
        while not done():
            if not self.take(name):
                self.pause()
                continue
            if not done():  # its former holder may have done it just before
                make()
            self.release()

    def fail(self, error: str) -> None:
        """End the others with this error; call it before `close`."""
        if self.joined and self._failure is None:
            with suppress(OSError):
                write_atomically(self.folder / "failed", error.encode())

    def check(self) -> None:
        """Raise if another process has failed.

        Raises:
            UserError: with its error, if this process speaks.
            FailedElsewhereError: if it does not.
        """
        if self._failure is not None and self._speaks:
            raise UserError(f"another process of this run failed: {self._failure}")
        if self._failure is not None:
            raise FailedElsewhereError(2)

    def watched(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, and `check` before each."""
        for item in items:
            self.check()
            yield item

    def pause(self) -> None:
        """Wait a moment for the others."""
        self.check()
        time.sleep(_POLL_S)

    def _is_dead(self, path: Path) -> bool:
        with open(path) as file:  # opened, so that its times are not remembered ones
            mark, touched = file.read(), os.fstat(file.fileno()).st_mtime
        host, _, pid = mark.rpartition(" ")
        if mark == self._mark or (host == self._host and not is_alive(int(pid))):
            return True  # ours is a former process's that had our id, as in a container
        return self._now() - touched > SILENCE_S

    def _now(self) -> float:
        with tempfile.TemporaryFile(dir=self.folder) as file:
            return os.fstat(file.fileno()).st_mtime

    def _hear(self) -> None:
        with suppress(OSError), open(self.folder / "failed") as file:
            if self.joined and os.fstat(file.fileno()).st_mtime > self._since:
                self._failure = file.read()

    def _beat(self) -> None:
        while not self._closed.wait(_BEAT_S):
            with suppress(OSError):
                if self._held is not None:
                    os.utime(self._held)
            self._hear()
