"""The data set: a record becomes tensors when it is asked for, its SEA pairs drawn on the way.

What comes out depends on the data, the seed, the epoch and the record's index alone, so any number
of workers, in any order, resumed anywhere, give the same. The epoch comes with the index
(`llava_sea.data.sampler`). Labels are rows of files, read when their image is; what that costs
beside the image `scripts/bench/data_workers.py` measures.

Shape letters: L tokens, P patches, K pairs of an image, N labels of a patch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from llava_sea.alignment.label_store import LabelStore
from llava_sea.alignment.sampling import (
    draw_labels,
    draw_patches,
    has_label,
    num_windows,
    pair_generator,
)
from llava_sea.alignment.transfer import grid_overlap, transfer_labels
from llava_sea.conversation import Template
from llava_sea.data import problems
from llava_sea.data.image_source import ImageSource
from llava_sea.data.images import ImageTransform, load_image
from llava_sea.data.problems import RecordError
from llava_sea.data.records import Record, first_images, sizes_of
from llava_sea.data.tokenize import tokenize_record
from llava_sea.errors import UserError


class LazySupervisedDataset(Dataset[dict[str, Tensor]]):
    """LLaVA's records as training samples."""

    def __init__(
        self,
        records: Sequence[Record],
        image_folder: str | ImageSource,
        transform: ImageTransform,
        template: Template,
        tokenizer: Any,
        *,
        image_tokens: int,
        model_max_length: int,
        label_store: LabelStore | None = None,
        grid: tuple[int, int] | None = None,
        first_patch: int = 0,
        window: int = 2,
        seed: int = 0,
    ) -> None:
        """Keep the parts; with a label store, see that it has every image.

        Args:
            records: the data.
            image_folder: what their images are relative to, or what they lie in.
            transform: the vision tower's.
            template: how conversations are written.
            tokenizer: the language model's, fast.
            image_tokens: of an image: P, and `first_patch` more.
            model_max_length: longest sequence, in tokens, the image's included.
            label_store: None trains without SEA.
            grid: rows and columns of the tower's patches; the store's if not given. Where the two
                differ (labels of another encoder) labels are resampled by overlap.
            first_patch: tokens of an image before its patches.
            window: k of localized sampling (3.2); 1 keeps every patch.
            seed: of the draws.

        Raises:
            UserError: if an image has no labels, or the grid does not hold P patches.
        """
        self.records = records
        self.image_folder = image_folder
        self.transform = transform
        self.template = template
        self.tokenizer = tokenizer
        self.image_tokens, self.first_patch = image_tokens, first_patch
        self.reading = (template, tokenizer, image_tokens, model_max_length)
        self.label_store = label_store
        self.window = window
        self.seed = seed
        self.pairs_per_record = 0
        self.num_without_labels = 0
        if label_store is not None:
            self.grid = grid or label_store.grid
            if self.grid[0] * self.grid[1] != self.num_patches:
                raise UserError(
                    f"{label_store.directory}: labels for {self.grid[0]} x {self.grid[1]} patches "
                    f"do not fit the {self.num_patches} of an image here; mine them with this tower"
                )
            self._overlap = grid_overlap(label_store.grid, self.grid)
            self.pairs_per_record = num_windows(self.grid, window)
            self.num_without_labels = check_store(records, label_store)

    def like(
        self, records: Sequence[Record], image_folder: str | ImageSource
    ) -> LazySupervisedDataset:
        """Return other records, read as these are, without labels."""
        template, tokenizer, image_tokens, length = self.reading
        return LazySupervisedDataset(
            records,
            image_folder,
            self.transform,
            template,
            tokenizer,
            image_tokens=image_tokens,
            first_patch=self.first_patch,
            model_max_length=length,
        )

    @property
    def num_patches(self) -> int:
        """P."""
        return self.image_tokens - self.first_patch

    def __len__(self) -> int:
        return len(self.records)

    @property
    def modality_lengths(self) -> list[int]:
        """LLaVA's measure of each record: its words and image tokens; negative if text only."""
        words, images = sizes_of(self.records)
        return np.where(images > 0, words + images * self.image_tokens, -words).tolist()

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Tensor]:
        """Return a record's tensors; `item` is its index, or (index, epoch), else the epoch is 0.

        Returns:
            ``input_ids``, ``labels`` int64 and ``image_mask`` bool ``(L,)``; ``pixel_values``
            ``(I, 3, H, W)`` unless the record is text only; with labels ``sea_patch``,
            ``sea_label`` and ``sea_key`` int64 ``(K,)``.
        """
        index, epoch = item if isinstance(item, tuple) else (item, 0)
        record = self.records[index]
        ids, labels, mask = tokenize_record(record, *self.reading)
        sample = {
            "input_ids": torch.tensor(ids, dtype=torch.int64),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "image_mask": torch.tensor(mask, dtype=torch.bool),
        }
        crc32 = 0
        if record.images:
            try:
                loaded = [load_image(self.image_folder, name, record.id) for name in record.images]
            except RecordError as error:
                raise record.error(error.kind, error.what) from None
            sample["pixel_values"] = torch.stack([self.transform(one.image) for one in loaded])
            crc32 = loaded[0].crc32
        if self.label_store is not None:
            sample |= self._pairs(record, epoch, crc32)
        return sample

    def _pairs(self, record: Record, epoch: int, crc32: int) -> dict[str, Tensor]:
        """Draw the record's pairs; none for text, or for an image that mining had to skip."""
        store = self.label_store
        assert store is not None
        if record.image is None or record.image in store.skipped:
            none = torch.empty(0, dtype=torch.int64)
            return dict.fromkeys(("sea_patch", "sea_label", "sea_key"), none)
        try:
            stored = store.read(record.image)
        except ValueError as error:
            raise record.error(problems.LABEL_STORE, str(error)) from None
        if stored.crc32 != crc32:
            raise record.error(
                problems.LABELS_STALE,
                f"the labels in {store.directory} were mined for another image than "
                f"{record.image!r} in {self.image_folder} (its bytes changed, or it is another "
                "folder); extract the labels again, into a new folder",
            )
        # As `sample_pairs`; only the patches that are drawn have their labels resampled.
        rng = pair_generator(self.seed, epoch, record.index)
        labelled_P = self._overlap.labelled(has_label(stored.scores_PN))
        patch_K = draw_patches(labelled_P, self.grid, self.window, rng)
        overlap = self._overlap.of(patch_K)
        ids_KN, scores_KN = transfer_labels(stored.ids_PN, stored.scores_PN, overlap)
        label_K, key_K = draw_labels(ids_KN, scores_KN, rng)
        return {
            "sea_patch": torch.from_numpy(patch_K),
            "sea_label": torch.from_numpy(label_K),
            "sea_key": torch.from_numpy(key_K),
        }


def check_store(records: Sequence[Record], store: LabelStore) -> int:
    """See that a store has every record's image; count those that mining had to skip."""
    images = list(first_images(records))
    missing = [n for n, image in enumerate(images) if image is not None and image not in store]
    if missing:
        few = [records[n] for n in missing[:3]]
        first = ", ".join(f"{record.image!r} of {record.name}" for record in few)
        raise UserError(
            f"{store.directory}: {len(missing)} of {len(records)} records have no labels, "
            f"the first: {first}. The labels were mined for other data: extract them for this "
            "--data_path"
        )
    return sum(image in store.skipped for image in images)


class Loader(DataLoader[Any]):
    """torch's, with workers whose `UserError`s arrive as they are.

    torch makes one text of a worker's error and its traceback; here the error is handed on as a
    value, with all that it carries, and raised by the main process in its batch's turn.
    """

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any], **options: Any) -> None:
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
