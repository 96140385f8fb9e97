"""Which prompts are answered together: those of about one length, so that little is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

WINDOW = 32
"""Batches among whose questions lengths are sorted: more would pad less and read disks worse."""


def plan_batches(lengths: Sequence[int], batch_size: int, roomy: int) -> Iterator[list[int]]:
    """Yield the positions of prompts that go together, the longest of a window first.

    A prompt longer than `roomy` is cut short by the context's end: only prompts as long as it is
    may stand beside it, or it would cut theirs.

    Args:
        lengths: of the prompts, in tokens.
        batch_size: of a batch at most.
        roomy: length up to which the context has room for the longest answer.
    """
    size = WINDOW * batch_size
    for start in range(0, len(lengths), size):
        window = range(start, min(start + size, len(lengths)))
        batch: list[int] = []
        for place in sorted(window, key=lambda i: (-lengths[i], i)):
            if batch:
                longest = lengths[batch[0]]
                apart = longest > roomy and lengths[place] != longest
                if apart or len(batch) == batch_size:
                    yield batch
                    batch = []
            batch.append(place)
        yield batch
