"""Count batches of captions in several processes, each into its own sorted run.

Why processes: tagging is Python all the way. They are spawned, not forked: the parent may run a
progress bar's thread. Which worker counts a batch changes nothing, since a run is the batch's own.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import chain, islice
from pathlib import Path

from llava_sea.errors import UserError
from llava_sea.labels.captions import CaptionBatch
from llava_sea.labels.counting import count_to_run


def count_batches(
    batches: Iterator[CaptionBatch], scratch: Path, *, max_words: int, num_workers: int
) -> Iterator[tuple[CaptionBatch, Path]]:
    """Count every batch into a run of its own; yields (batch, run) in corpus order.

    Args:
        batches: the corpus; at most 3 a worker are in memory.
        scratch: a folder for the runs.
        max_words: longest phrase in words.
        num_workers: processes; with 1, or for a single batch, this process does the work.

    Raises:
        UserError: from `batches`, or a worker process was killed.
    """
    head = list(islice(batches, 2))
    count = partial(count_to_run, max_words=max_words)
    numbered = enumerate(chain(head, batches))
    if num_workers == 1 or len(head) < 2:
        for number, batch in numbered:
            run = scratch / f"batch-{number:07d}.tsv"
            count(batch.captions, path=run)
            yield batch, run
        return
    waiting: deque[tuple[CaptionBatch, Path, Future[int]]] = deque()
    pool = ProcessPoolExecutor(
        num_workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        for number, batch in numbered:
            run = scratch / f"batch-{number:07d}.tsv"
            waiting.append((batch, run, pool.submit(count, batch.captions, path=run)))
            if len(waiting) > 2 * num_workers:
                yield _finished(waiting)
        while waiting:
            yield _finished(waiting)
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed from outside, most likely for memory; run again with "
            "--num_workers 1"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _finished(waiting: deque[tuple[CaptionBatch, Path, Future[int]]]) -> tuple[CaptionBatch, Path]:
    batch, run, future = waiting.popleft()
    future.result()
    return batch, run
