"""Ranks: the processes that share a work of hours under ``torchrun`` or ``deepspeed``.

They share a file system. Where they need to speak, a group joins them (gloo, on the CPU): it
carries the findings of the first rank, and at the end which of them failed. If one dies the
launcher ends the others of its machine; if the launcher dies, even by ``kill -9``, they end
themselves.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import psutil

from llava_sea.errors import UserError
from llava_sea.files import is_alive

Item = TypeVar("Item")

_PATIENCE = timedelta(days=30)
"""How long one process may wait for the others: the share of one may take hours longer."""

_USER_ERROR = 2

_LAUNCHERS = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE")
_SLURM = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE")
"""Their names for the number of processes, for rank, local rank, and the number on a machine."""


class FailedElsewhereError(SystemExit):
    """The work failed, and the first process has the error and says it.

    Ends this process silently, or lets it continue with the next piece of work, as the first does.
    """


@dataclass(frozen=True)
class Processes:
    """This process's place among those of the run.

    Attributes:
        rank: its number, 0 for the one that reads and writes for all.
        count: how many there are.
        local_rank: its number on this machine, which is its GPU's.
        local_count: how many there are on this machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @classmethod
    def here(cls) -> Processes:
        """Return this process's place by the environment of the launcher or of ``srun``."""
        of_slurm = "SLURM_PROCID" in os.environ and "WORLD_SIZE" not in os.environ
        names = _SLURM if of_slurm else _LAUNCHERS
        try:
            count = int(os.environ.get(names[0], "1"))
            if count == 1:
                return cls()
            rank = int(os.environ[names[1]])
            local_rank = int(os.environ.get(names[2], rank))
            # torchrun's and DeepSpeed's name; SLURM's is "4(x2)"
            told = (os.environ[name] for name in names[3:] if name in os.environ)
            local_count = int(next(told, str(count)).partition("(")[0].partition(",")[0])
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{names[0]} is set and the environment is not whole ({error!r}); start several "
                f"processes with {'srun' if of_slurm else 'torchrun or deepspeed'}, one without "
                f"{names[0]}"
            ) from None
        _end_with_launcher()
        return cls(rank, count, local_rank, local_count)

    @classmethod
    def start(cls) -> Processes:
        """Join the group that the launcher's environment names; alone where there is none."""
        if "WORLD_SIZE" not in os.environ:
            return cls()  # SLURM alone says no address to meet at
        found = cls.here()
        if found.count > 1:
            import torch.distributed as dist

            dist.init_process_group("gloo", timeout=_PATIENCE)
        return found

    def stop(self) -> None:
        """Leave the group."""
        if self.count > 1:
            import torch.distributed as dist

            dist.destroy_process_group()

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Return this process's part of the work."""
        return list(items[self.rank :: self.count])

    def first(self, work: Callable[[], Item]) -> Item:
        """Let the first process do a piece of work, and return its result in each.

        Raises:
            Exception: what the work raised, in the first process.
            FailedElsewhereError: in the others, if that was a `UserError`; any other ends them.
        """
        if self.count == 1:
            return work()
        import torch.distributed as dist

        message: list[tuple[str, Item | None]] = [("died", None)]
        try:
            if self.rank == 0:
                message = [("done", work())]
        except UserError:
            message = [("refused", None)]
            raise
        finally:
            dist.broadcast_object_list(message, src=0)
        state, result = message[0]
        if state == "refused":
            raise FailedElsewhereError(_USER_ERROR)
        if state == "died":
            raise SystemExit(_USER_ERROR)
        return result  # type: ignore[return-value]

    def raise_if_any_failed(self, error: UserError | None) -> None:
        """Wait until each process has done its share, or failed in it; all fail if one did.

        Raises:
            UserError: in the first process, with the text of each error.
            FailedElsewhereError: in the others.
        """
        if self.count == 1:
            if error is not None:
                raise error
            return
        import torch.distributed as dist

        said: list[str | None] = [None] * self.count
        dist.all_gather_object(said, None if error is None else str(error))
        texts = dict.fromkeys(text for text in said if text is not None)
        if texts and self.rank:
            raise FailedElsewhereError(_USER_ERROR)
        if texts:
            raise UserError("; ".join(texts))


def launchers() -> list[psutil.Process]:
    """The DeepSpeed or torchrun processes above this one; when they end, so shall the run."""
    known = ("deepspeed", "torch.distributed", "torchrun", "torch/distributed", "train.launch")
    found = []
    for parent in psutil.Process().parents():
        try:
            words = parent.cmdline()
        except psutil.Error:
            break
        # A shell that names deepspeed on its command line may well end before the run does.
        is_python = words and Path(words[0]).name.startswith(("python", "deepspeed", "torchrun"))
        if not is_python or not any(launcher in word for word in words for launcher in known):
            break
        found.append(parent)
    return found


def _end_with_launcher() -> None:
    above = launchers()
    if not above:
        return

    def watch() -> None:
        while all(is_alive(process.pid) for process in above):
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
