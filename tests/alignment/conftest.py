import pytest
import torch
import torch.distributed as dist


@pytest.fixture
def in_ranks(fork, tmp_path):
    """Call a function in each of several ranks; return what each found."""

    def call(work, world):
        def main():
            dist.init_process_group("gloo")
            rank = dist.get_rank()
            torch.save(work(rank, world), tmp_path / f"{rank}.pt")
            dist.destroy_process_group()

        assert [rank.process.exitcode for rank in fork(main, count=world)] == [0] * world
        return [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world)]

    return call
