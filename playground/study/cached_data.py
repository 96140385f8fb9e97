"""The package's data set with nothing left to compute: tokens kept, features instead of pixels.

Pairs are drawn by `LazySupervisedDataset` itself, and batches are made by the package's collator:
what a run of the study trains on is what ``--data_path`` trains on.

Shape letters: I pictures, P patches, D the tower's hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llava_sea.data.dataset import LazySupervisedDataset
from llava_sea.data.records import Record
from llava_sea.data.tokenize import tokenize_record

TokenCache = dict[int, dict[str, Tensor]]


class CachedDataset(LazySupervisedDataset):
    """Records whose pictures are rows of a table of features."""

    def __init__(
        self,
        records: Sequence[Record],
        features_IPD: NDArray[np.float32],
        crc32_I: Sequence[int],
        tokens: TokenCache,
        **options: Any,
    ) -> None:
        """Keep the parts.

        Args:
            records: the data; record i has row i of the features.
            features_IPD: the tower's features.
            crc32_I: of the picture files, compared with the labels'.
            tokens: filled as records are asked for; shared by all data sets of the same records
                and tokenizer.
            options: `LazySupervisedDataset`'s, without the image folder.

        Raises:
            UserError: as `LazySupervisedDataset`.
        """
        super().__init__(records, "", **options)
        self.features_IPD, self.crc32_I, self._tokens = features_IPD, crc32_I, tokens

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Tensor]:
        """Return a record's tensors, the features ``(1, P, D)`` under ``pixel_values``."""
        index, epoch = item if isinstance(item, tuple) else (item, 0)
        if index not in self._tokens:
            self._tokens[index] = self._tokenize(self.records[index])
        sample = dict(self._tokens[index])
        sample["pixel_values"] = torch.from_numpy(np.array(self.features_IPD[index]))[None]
        if self.label_store is not None:
            sample |= self._pairs(self.records[index], epoch, self.crc32_I[index])
        return sample

    def _tokenize(self, record: Record) -> dict[str, Tensor]:
        ids, labels, mask = tokenize_record(record, *self.reading)
        return {
            "input_ids": torch.tensor(ids),
            "labels": torch.tensor(labels),
            "image_mask": torch.tensor(mask),
        }
