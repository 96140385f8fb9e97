"""Check records in several processes, results in the records' order.

Why processes: most of the work is tokenising, Python all the way. They are forked, so the records
are in each without being sent; they read files and call the tokenizer, nothing of torch.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from llava_sea.data.check_record import Checked, RecordChecker
from llava_sea.data.records import Record, RecordError
from llava_sea.errors import UserError

Items = Sequence[Record | RecordError]
_CHUNK = 32
_work: tuple[RecordChecker, Items] | None = None  # of a worker process


def check_records(
    checker: RecordChecker,
    items: Items,
    num_workers: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[Checked]:
    """Yield what came of each record, in order.

    Args:
        checker: what is asked.
        items: the records, or what is wrong with them.
        num_workers: processes; 0 does the work in this one.
        progress: called with the number of records done.

    Raises:
        UserError: if a worker process was killed.
    """
    if num_workers == 0:
        for done, item in enumerate(items, 1):
            yield checker(item)
            if done % _CHUNK == 0 or done == len(items):
                progress(done)
        return
    pool = ProcessPoolExecutor(
        num_workers,
        mp_context=multiprocessing.get_context("fork"),
        initializer=_start,
        initargs=(checker, items),
    )
    waiting: deque[Future[list[Checked]]] = deque()
    done = 0
    try:
        for start in range(0, len(items), _CHUNK):
            waiting.append(pool.submit(_check_chunk, start))
            while len(waiting) > 4 * num_workers or (start + _CHUNK >= len(items) and waiting):
                checked = waiting.popleft().result()
                yield from checked
                done += len(checked)
                progress(done)
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed from outside, most likely for memory; run again with "
            "--num_workers 0"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start(checker: RecordChecker, items: Items) -> None:
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    _work = checker, items


def _check_chunk(start: int) -> list[Checked]:
    assert _work is not None
    checker, items = _work
    return [checker(item) for item in items[start : start + _CHUNK]]
