"""What the tests of both studies' commands share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from playground.study import pool
from playground.study.plan import Planned


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs that are begun; runs happen in this process."""
    begun: list[str] = []

    def run_here(
        setup: Any, planned: Sequence[Planned], workers: int, execute: pool.Execute
    ) -> Iterator[pool.Done]:
        for item in planned:
            begun.append(item.run.name)
            yield pool.Done(item, execute(setup, item))

    monkeypatch.setattr(pool, "run_all", run_here)
    return begun
