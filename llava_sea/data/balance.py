"""Items of different lengths divided: into parts of like sum, into few rows of limited length."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def balance(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Split items into parts whose sums are alike: the longest first, each to the smallest part.

    Args:
        lengths: of the items, positive.
        parts: how many; no part is empty if there are as many items.

    Returns:
        The items' numbers, ascending within a part; equal input gives equal output.
    """
    sums = [(0, part) for part in range(parts)]
    members: list[list[int]] = [[] for _ in range(parts)]
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        total, part = sums[0]
        members[part].append(item)
        heapq.heapreplace(sums, (total + lengths[item], part))
    return [sorted(part) for part in members]


def fill_rows(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Put items into few rows of at most `limit`: alike if they can be, else first-fit decreasing.

    Args:
        lengths: of the items, none above the limit.
        limit: the longest row.

    Raises:
        ValueError: if an item is longer than the limit.
    """
    if max(lengths) > limit:
        raise ValueError(f"an item of length {max(lengths)} does not fit into rows of {limit}")
    rows: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        row = next((n for n, left in enumerate(room) if left >= lengths[item]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(limit)
        rows[row].append(item)
        room[row] -= lengths[item]
    alike = balance(lengths, len(rows))
    if max(sum(lengths[item] for item in row) for row in alike) <= limit:
        return alike
    return [sorted(row) for row in rows]
