"""Distributed helpers of the commands that answer questions: share, broadcast, collect errors.

Under ``python -m llava_sea.train.launch --module``, ``torchrun`` or ``deepspeed`` the processes
share the work and a file system. The group that joins them (gloo, on the CPU) carries what the
first process found, and at the end of the shares which of them failed. If one dies, the launcher
ends the others.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from llava_sea.errors import UserError
from llava_sea.terminal import log_to, say

Item = TypeVar("Item")

_PATIENCE = timedelta(days=30)
"""How long one process may wait for the others: the share of one may take hours longer."""

_USER_ERROR = 2


class FailedElsewhereError(SystemExit):
    """The work failed; the first process has the error and says it.

    Ends this process silently, unless it is caught to start the next task with the first.
    """


@dataclass(frozen=True)
class Processes:
    """This process's place in the run: its rank, and its number on this machine (its GPU's)."""

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
        """Let the first process do a piece of work; return its result in all of them.

        Raises:
            Exception: the one that the work raised, in the first process.
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
        """Wait until each process has done its share, or failed in it with an error.

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


def run_shared(work: Callable[[Processes], None]) -> None:
    """Run a command's work as one of the launcher's processes.

    Raises:
        UserError: as the work does.
    """
    # The tokenizer's own threads and ours would be in each other's way.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    log_to(sys.stderr)
    if os.environ.get("RANK", "0") != "0":
        logging.getLogger().setLevel(logging.ERROR)  # it would say the same once more

    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    processes = Processes.start()
    try:
        work(processes)
    except KeyboardInterrupt:
        say("stopped; the same command resumes from here", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        processes.stop()
