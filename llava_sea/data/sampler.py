"""Which records a rank sees in which order, with the epoch travelling beside each index.

A worker process learns the epoch from the index itself: `dataset.set_epoch` in the main process
never reaches persistent workers. The order comes from (seed, epoch) alone and is the same on every
rank; each global batch is cut into equal parts, so what one step sees does not depend on the number
of ranks. The last global batch is filled up from the epoch's beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Sampler


class EpochBatchSampler(Sampler[list[tuple[int, int]]]):
    """Yields this rank's batches of (index, epoch)."""

    def __init__(
        self,
        num_records: int,
        batch_size: int,
        *,
        rank: int,
        world_size: int,
        seed: int,
        epoch_of: Callable[[], int],
        drop_last: bool = False,
        shuffle: bool = True,
    ) -> None:
        """Prepare the order.

        Args:
            num_records: length of the data set.
            batch_size: records of one rank in one micro-batch.
            rank: this process, from 0.
            world_size: number of processes.
            seed: the run's data seed.
            epoch_of: called when an epoch begins; tells which, from 0.
            drop_last: leave out the last global batch if it is not full.
            shuffle: False keeps the file's order.
        """
        self.num_records = num_records
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.epoch_of = epoch_of
        self.drop_last = drop_last
        self.shuffle = shuffle

    def __len__(self) -> int:
        whole = self.batch_size * self.world_size
        return self.num_records // whole if self.drop_last else -(-self.num_records // whole)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch_of()
        order = np.arange(self.num_records)
        if self.shuffle:
            order = np.random.default_rng([self.seed & 0xFFFFFFFF, epoch]).permutation(order)
        whole = self.batch_size * self.world_size
        order = np.resize(order, len(self) * whole)
        for start in range(self.rank * self.batch_size, len(order), whole):
            yield [(int(index), epoch) for index in order[start : start + self.batch_size]]
