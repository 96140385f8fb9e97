"""`deepspeed`, with signals that reach the ranks: what the scripts start instead of it.

On one node the `deepspeed` command passes no SIGTERM on: killed, it leaves its ranks running. This
starts it, hands SIGTERM and SIGINT to the ranks (which save a checkpoint and end), waits for every
process of the run, and ends with the run's status. Ranks that `pdsh` started on other machines are
ended by `deepspeed`. What a rank said was wrong is repeated as the last line. All arguments are
deepspeed's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType

import psutil

from llava_sea.errors import ERROR_FILE, EXIT_STATUS
from llava_sea.terminal import say

USER_ERROR = 2
"""Status of a command that said itself what was wrong (`llava_sea.errors`)."""


def main() -> int:
    """Run ``deepspeed`` with this process's arguments; return its exit status."""
    told_to_stop = False
    started: list[psutil.Process] = []

    def pass_on(signum: int, frame: FrameType | None) -> None:
        nonlocal told_to_stop
        told_to_stop = True

    errors = Path(tempfile.mkstemp(prefix="llava_sea_errors_")[1])
    # A group of its own, so that Ctrl-C comes here first and not to deepspeed, which would kill.
    command = ["deepspeed", "--log_level", "error", *sys.argv[1:]]
    process = subprocess.Popen(
        command, start_new_session=True, env=os.environ | {ERROR_FILE: str(errors)}
    )
    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    while (status := _wait(process)) is None:
        if told_to_stop and not started:
            # None yet if the signal came while deepspeed was starting them: ask again.
            started = _descendants(process)
            ranks = [p for p in started if _is_rank(p)]
            if not ranks and any(p.name() == "pdsh" for p in started):
                ranks = [psutil.Process(process.pid)]  # it ends those of other machines itself
            for rank in ranks:
                rank.send_signal(signal.SIGTERM)
            started = started if ranks else []
    psutil.wait_procs(started, timeout=60)
    said = errors.read_text().splitlines()
    errors.unlink()
    if told_to_stop:
        return EXIT_STATUS
    if status == 0:
        return 0
    if said:
        # Above it are the tracebacks of the ranks that were left alone.
        say(min(said, key=lambda line: line.startswith("[rank")), file=sys.stderr)
        return USER_ERROR
    say(
        f"error: a process of this run died (status {status}) and the others were ended; what it "
        f"said is above. The same command resumes from {_kept()}",
        file=sys.stderr,
    )
    return status


def _kept() -> str:
    """Say where the run's work is."""
    for module, kept in (("eval", "its answers on disk"), ("labels", "the finished shards")):
        if any(argument.startswith(f"llava_sea.{module}") for argument in sys.argv[1:]):
            return kept
    return "the last complete checkpoint"


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    """Wait a moment; return the status if the process has ended."""
    try:
        return process.wait(timeout=0.2)
    except subprocess.TimeoutExpired:
        return None


def _descendants(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        return []


def _is_rank(process: psutil.Process) -> bool:
    """A rank is a child of DeepSpeed's launch.py; data workers and helpers are further down."""
    try:
        parent = process.parent()
        if parent is None or parent.name() == "pdsh":  # its command names the launcher too
            return False
        return any("launcher.launch" in part for part in parent.cmdline())
    except psutil.Error:
        return False


if __name__ == "__main__":
    sys.exit(main())
