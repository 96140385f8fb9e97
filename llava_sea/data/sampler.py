"""Which records a rank sees in which order, with the epoch travelling beside each index.

A worker process learns the epoch from the index itself: `dataset.set_epoch` in the main process
never reaches persistent workers. The order comes from (seed, epoch) alone and is the same on every
rank; each global batch is cut into equal parts, so what one step sees does not depend on the number
of ranks. The last global batch is filled up from the epoch's beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler


@dataclass(eq=False)
class EpochBatchSampler(Sampler[list[tuple[int, int]]]):
    """Yields this rank's batches of (index, epoch), `batch_size` records each.

    `epoch_of` is called when an epoch begins and tells which, from 0; `drop_last` leaves out the
    last global batch if it is not full; `shuffle` False keeps the file's order.
    """

    num_records: int
    batch_size: int
    _: KW_ONLY
    rank: int
    world_size: int
    seed: int
    epoch_of: Callable[[], int]
    drop_last: bool = False
    shuffle: bool = True

    def __len__(self) -> int:
        whole = self.batch_size * self.world_size
        return self.num_records // whole if self.drop_last else -(-self.num_records // whole)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch_of()
        whole = self.batch_size * self.world_size
        order = self.epoch_order(epoch)
        for start in range(self.rank * self.batch_size, len(order), whole):
            yield [(int(index), epoch) for index in order[start : start + self.batch_size]]

    def epoch_order(self, epoch: int) -> NDArray[np.int64]:
        """Return the epoch's records as all ranks' micro-batches take them, the end filled up."""
        return np.resize(self._order(epoch), len(self) * self.batch_size * self.world_size)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """Return all records in the epoch's order, the same on every rank."""
        order = np.arange(self.num_records)
        return self._generator(epoch).permutation(order) if self.shuffle else order

    def _generator(self, epoch: int) -> np.random.Generator:
        return np.random.default_rng([self.seed & 0xFFFFFFFF, epoch])


POOL_STEPS = 50
"""Steps whose records are sorted by length together; as in transformers' length grouping."""


class ModalityBatchSampler(EpochBatchSampler):
    """Steps of one modality and like length (``--group_by_modality_length``).

    A step that has text alone on one rank and images on another waits for the slower one, and
    padding costs as much as it is long. What is left of either modality at an epoch's end makes the
    last steps, which are mixed, as in LLaVA.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, *, accumulation: int, **options: Any
    ):
        """Take lengths, negative for records without an image; options as `EpochBatchSampler`."""
        super().__init__(len(lengths), batch_size, **options)
        self.lengths = np.asarray(lengths)
        self.accumulation = accumulation

    def _order(self, epoch: int) -> NDArray[np.int64]:
        generator = self._generator(epoch)
        step = self.batch_size * self.world_size * self.accumulation
        steps: list[NDArray[np.int64]] = []
        left: list[NDArray[np.int64]] = []
        for members in (np.flatnonzero(self.lengths > 0), np.flatnonzero(self.lengths <= 0)):
            shuffled = generator.permutation(members)
            whole = len(shuffled) // step * step
            for start in range(0, whole, POOL_STEPS * step):
                pool = shuffled[start : min(start + POOL_STEPS * step, whole)]
                pool = pool[np.argsort(-np.abs(self.lengths[pool]), kind="stable")]
                steps += np.split(pool, len(pool) // step)
            left.append(shuffled[whole:])
        order = [steps[i] for i in generator.permutation(len(steps))]
        return np.concatenate([*order, generator.permutation(np.concatenate(left))])
