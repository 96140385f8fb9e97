"""Ranks that are forked from a process which has imported everything."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from rank_world import run_rank


@pytest.fixture
def in_ranks(fork_server, tmp_path):
    """Call a function of `rank_world` in each of several ranks; return what each found."""

    def call(work, world):
        results = fork_server.Queue()
        ranks = [
            fork_server.Process(target=run_rank, args=(work, rank, world, tmp_path, results))
            for rank in range(world)
        ]
        for rank in ranks:
            rank.start()
        found = dict(results.get(timeout=600) for _ in ranks)
        for rank in ranks:
            rank.join(600)
        assert [rank.exitcode for rank in ranks] == [0] * world
        return [found[rank] for rank in range(world)]

    return call
