"""Several processes that mine shards, and a main process that none of them survives or outwaits.

Every process has a pipe of its own (a shared queue's lock would be lost with a killed process). If
one dies the others are stopped and the run ends with a clear error; if the main process dies, even
by ``kill -9``, the others see it at once and leave.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from multiprocessing import connection, get_context, parent_process
from typing import Any

import torch

from llava_sea.errors import UserError
from llava_sea.labels.mine_shards import Plan, mine_shards


def mine_in_processes(
    plan: Plan, shards: list[int], num_workers: int, report: Callable[[int], None]
) -> None:
    """Deal the shards to `num_workers` processes and wait for them.

    Args:
        plan: the run.
        shards: numbers of the shards to make.
        num_workers: processes; process i takes every `num_workers`-th shard from the i-th on.
        report: called with the number of pictures done since the last call.

    Raises:
        UserError: the first that a process met, or that one died.
    """
    context = get_context("spawn")
    workers: dict[Any, Any] = {}
    try:
        for rank in range(num_workers):
            receiver, sender = context.Pipe(duplex=False)
            mine = shards[rank::num_workers]
            process = context.Process(
                target=_work, args=(plan, mine, rank, sender), name=f"extract-{rank}", daemon=True
            )
            process.start()
            sender.close()
            workers[receiver] = process
        unfinished = dict(workers)
        while unfinished:
            ready: list[Any] = connection.wait(list(unfinished))
            for receiver in ready:
                if _take_message(receiver, unfinished[receiver], report):
                    del unfinished[receiver]
    finally:
        for process in workers.values():
            process.terminate()
        for process in workers.values():
            process.join(5)
            if process.is_alive():
                process.kill()


def _take_message(
    receiver: connection.Connection, process: Any, report: Callable[[int], None]
) -> bool:
    """Read one message; True if it was the worker's last. Raises what the worker raised."""
    try:
        kind, content = receiver.recv()
    except EOFError:
        process.join(10)
        raise UserError(_death(process)) from None
    if kind == "done":
        report(content)
    elif kind == "user error":
        raise UserError(content)
    elif kind == "defect":
        raise RuntimeError(f"process {process.name} failed:\n{content}")
    return kind == "end"


def _death(process: Any) -> str:
    code = process.exitcode
    how = f"with exit status {code}"
    if code is not None and code < 0:
        how = f"by signal {signal.Signals(-code).name}"
        if -code == signal.SIGKILL:
            how += " (the system does that when memory runs out)"
    return (
        f"process {process.name} (pid {process.pid}) was ended {how}; the others are stopped. "
        "Finished shards are kept: run the same command again, with a smaller --batch_size or "
        "--num_workers if memory was short"
    )


def _work(plan: Plan, shards: list[int], rank: int, sender: connection.Connection) -> None:
    """Run one process: mine, and tell the main process everything."""
    import traceback

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    _leave_with_parent()
    torch.set_num_threads(plan.threads)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    device = plan.devices[rank % len(plan.devices)]
    try:
        mine_shards(plan, shards, device, lambda count: sender.send(("done", count)))
        sender.send(("end", None))
    except UserError as error:
        sender.send(("user error", str(error)))
    except Exception:
        sender.send(("defect", traceback.format_exc()))


def _leave_with_parent() -> None:
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
