"""The processes of a run under ``torchrun`` or ``deepspeed``, without a word about models.

They share the work and a file system; the group that joins them (gloo, on the CPU) carries what
the first process found out, and a barrier. A process that dies is the launcher's to notice: it
ends the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from llava_sea.errors import UserError

Item = TypeVar("Item")

_PATIENCE = timedelta(days=30)
"""How long one process may wait for the others: the share of one may take hours longer."""

_USER_ERROR = 2


@dataclass(frozen=True)
class Processes:
    """This process's place among those of the run.

    Attributes:
        rank: its number, 0 for the one that reads and writes for all.
        count: how many there are.
        local_rank: its number on this machine, which is its GPU's.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def start(cls) -> Processes:
        """Join the group that the launcher's environment names; alone where there is none.

        Raises:
            UserError: if the environment is no launcher's.
        """
        try:
            count = int(os.environ.get("WORLD_SIZE", "1"))
            if count == 1:
                return cls()
            rank = int(os.environ["RANK"])
            local_rank = int(os.environ.get("LOCAL_RANK", rank))
        except (KeyError, ValueError) as error:
            raise UserError(
                f"WORLD_SIZE is set and the environment is not whole ({error!r}); start several "
                "processes with torchrun or deepspeed, one without WORLD_SIZE"
            ) from None
        import torch.distributed as dist

        dist.init_process_group("gloo", timeout=_PATIENCE)
        return cls(rank, count, local_rank)

    def stop(self) -> None:
        """Leave the group."""
        if self.count > 1:
            import torch.distributed as dist

            dist.destroy_process_group()

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Return this process's part of the work."""
        return list(items[self.rank :: self.count])

    def first(self, work: Callable[[], Item]) -> Item:
        """Let the first process do a piece of work, and return in each what it returned.

        Raises:
            Exception: what the work raised, in the first process; the others end quietly.
        """
        if self.count == 1:
            return work()
        import torch.distributed as dist

        message: list[tuple[bool, Item | None]] = [(False, None)]
        try:
            if self.rank == 0:
                message = [(True, work())]
        finally:
            dist.broadcast_object_list(message, src=0)
        done, result = message[0]
        if not done:
            raise SystemExit(_USER_ERROR)
        return result  # type: ignore[return-value]

    def wait(self) -> None:
        """Wait for the others."""
        if self.count > 1:
            import torch.distributed as dist

            dist.barrier()
