"""torch's DataLoader, with workers whose `UserError`s arrive as they are.

torch makes one text of a worker's error and its traceback; here the error is handed on as a value,
with all that it carries, and raised by the main process in its batch's turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset

from llava_sea.errors import UserError


class Loader(DataLoader[Any]):
    """Batches of a data set, read by the given number of processes."""

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any], **options: Any) -> None:
        """Take what `DataLoader` takes.

        `options` are DataLoader's; items of the data set are whatever the sampler yields.
        """
        super().__init__(_Batches(dataset, collate), collate_fn=_unchanged, **options)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                raise batch
            yield batch


class _Batches(Dataset[Any]):
    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any]) -> None:
        self.dataset, self.collate = dataset, collate

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, items: Sequence[Any]) -> Any:
        """Return a batch, or the error that keeps it from being made."""
        try:
            return self.collate([self.dataset[item] for item in items])
        except UserError as error:
            return error


def _unchanged(batch: Any) -> Any:
    return batch
