"""The images of a corpus, each once, and their pixels, loaded ahead of the encoder by threads.

An image is named as in its record's "image"; it stands at its first appearance in the data.
Decoding releases Python's lock, so a few threads keep an encoder fed.

Shape letters: B images of a batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from llava_sea.data.images import ImageTransform, load_image
from llava_sea.data.records import Record
from llava_sea.errors import UserError
from llava_sea.labels.options import CorpusOptions

Item = TypeVar("Item")
Loaded = tuple[Tensor, int] | str
"""An image's pixels and the CRC-32 of its file, or why there are none."""


class CorpusImage(NamedTuple):
    """An image's name and the record that first shows it."""

    image: str
    record_id: str


class LoadedBatch(NamedTuple):
    """Pixels of the images that could be read, where they belong, and the others with reasons."""

    pixels_BCHW: Tensor | None
    rows: list[int]
    crc32s: list[int]
    skipped: dict[str, str]


def distinct_images(records: Iterable[Record]) -> tuple[list[CorpusImage], list[str]]:
    """List the corpus's images once each, and the text of the answers in the same record.

    Raises:
        UserError: if no record has an image.
    """
    captions: dict[CorpusImage, str] = {}
    seen: set[str] = set()
    for record in records:
        if record.image is not None and record.image not in seen:
            seen.add(record.image)
            answers = [turn.text for turn in record.turns if turn.role == "gpt"]
            captions[CorpusImage(record.image, record.id)] = "\n".join(answers)
    if not captions:
        raise UserError("--data_path holds no record with an image: there is nothing to label")
    return list(captions), list(captions.values())


def spread(items: Sequence[Item], size: int) -> list[Item]:
    """Take `size` items spread evenly over all of them, or all if there are no more."""
    positions = np.linspace(0, len(items) - 1, min(size, len(items))).astype(int)
    return [items[i] for i in positions]


@dataclass(frozen=True)
class ImageLoader:
    """Reads images from a folder as an encoder's input."""

    folder: str
    transform: ImageTransform
    on_bad_image: str
    threads: int

    @classmethod
    def of(cls, options: CorpusOptions) -> ImageLoader:
        """Make the loader that the options name."""
        transform = ImageTransform.from_pretrained(options.vision_tower, options.image_aspect_ratio)
        folder = options.image_folder
        return cls(folder, transform, options.on_bad_image, options.loader_threads)

    def batches(self, images: Sequence[CorpusImage], size: int) -> Iterator[LoadedBatch]:
        """Yield the images in order, `size` at a time; the next two batches are loaded ahead.

        Raises:
            UserError: for an image that cannot be read, unless `on_bad_image` is ``skip``.
        """
        ahead: deque[dict[int, Future[Loaded]]] = deque()
        pool = ThreadPoolExecutor(self.threads)
        try:
            for start in range(0, len(images), size):
                rows = range(start, min(start + size, len(images)))
                ahead.append({row: pool.submit(self._load, images[row]) for row in rows})
                if len(ahead) > 2:
                    yield _join(images, ahead.popleft())
            while ahead:
                yield _join(images, ahead.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _load(self, image: CorpusImage) -> Loaded:
        try:
            loaded, crc32 = load_image(Path(self.folder), image.image, image.record_id)
            return self.transform(loaded), crc32
        except UserError as error:
            if self.on_bad_image == "skip":
                return str(error)
            raise UserError(
                f"{error}. Or give it no labels with --on_bad_image skip; finished shards are kept"
            ) from error


def _join(images: Sequence[CorpusImage], loading: dict[int, Future[Loaded]]) -> LoadedBatch:
    found = {row: future.result() for row, future in loading.items()}
    read = {row: item for row, item in found.items() if not isinstance(item, str)}
    pixels = [item[0] for item in read.values()]
    return LoadedBatch(
        torch.stack(pixels) if pixels else None,
        list(read),
        [item[1] for item in read.values()],
        {images[row].image: item for row, item in found.items() if isinstance(item, str)},
    )
