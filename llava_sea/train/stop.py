"""Ending early without losing work: SIGTERM, a launcher that went away, a rank that died.

SIGTERM to any rank makes all ranks save a checkpoint after the current step and end with status
143. A launcher that vanished counts as SIGTERM: `deepspeed` passes no signal on when it is killed.
If the step never ends (a peer died and the collective waits for it), a thread ends this process
with a message instead of hanging: the signal reaches it through a pipe even while the main thread
sits in a collective.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl

from llava_sea.errors import EXIT_STATUS
from llava_sea.files import is_alive
from llava_sea.processes import launchers
from llava_sea.terminal import say

logger = logging.getLogger(__name__)

_workers_may_go = multiprocessing.Event()


def guard_worker(worker: int) -> None:
    """Keep a data worker alive through a SIGTERM to the process group, until the main one is done.

    Without this the workers die first and the step that the checkpoint waits for never ends.
    """
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if _workers_may_go.is_set() else None)


class StopOnSignal(TrainerCallback):
    """Turns a SIGTERM on any rank into one checkpoint and an orderly end on all."""

    def __init__(self, grace_seconds: float = 20.0) -> None:
        """Start listening; after a signal the current step may take `grace_seconds`.

        DeepSpeed's launcher kills 30 s after its own SIGTERM; this comes first, with a message.
        """
        self.requested = False
        self.stopped = False
        self._grace_seconds = grace_seconds
        self._reached_step_end = threading.Event()
        self._finished = threading.Event()
        self._ancestors = launchers()
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        self._reader, self._writer = reader, writer
        self._former_handler = signal.signal(signal.SIGTERM, self._on_signal)
        self._former_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch_signal, daemon=True).start()
        threading.Thread(target=self._watch_launcher, daemon=True).start()

    def close(self) -> None:
        """Stop listening and put the former handler back."""
        self._finished.set()
        _workers_may_go.set()
        signal.set_wakeup_fd(self._former_fd)
        signal.signal(signal.SIGTERM, self._former_handler)

    def _on_signal(self, signum: int, frame: Any) -> None:
        self.requested = True

    def _watch_signal(self) -> None:
        while not self._finished.is_set():
            data = self._reader.recv(64)
            if signal.SIGTERM in data:
                self._start_grace("SIGTERM")
                return

    def _watch_launcher(self) -> None:
        while not self._finished.wait(0.5):
            gone = [p.pid for p in self._ancestors if not is_alive(p.pid)]
            if gone:
                self._start_grace(f"the launcher (process {gone[0]}) is gone")
                return

    def _start_grace(self, reason: str) -> None:
        self.requested = True
        logger.warning("%s: saving a checkpoint after this step, then ending", reason)
        if not self._reached_step_end.wait(self._grace_seconds) and not self._finished.is_set():
            # The main thread is stuck in a collective; no exception can reach it.
            say(
                f"error: {reason}, and this step did not end within {self._grace_seconds:.0f} s; "
                "most likely another process of this run has died. Nothing was saved at this "
                "point; start the same command again: it resumes from the last complete checkpoint",
            )
            os._exit(EXIT_STATUS)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> TrainerControl:
        """Agree with the other ranks; if any was told to stop, save and stop."""
        requested = self.requested
        if dist.is_initialized() and dist.get_world_size() > 1:
            flag = torch.tensor(int(requested), device=args.device)
            dist.all_reduce(flag, dist.ReduceOp.MAX)
            requested = bool(flag.item())
        if requested:
            self._reached_step_end.set()
            self.stopped = control.should_save = control.should_training_stop = True
        return control
