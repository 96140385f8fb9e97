"""The pictures of a corpus, each once, and their pixels, loaded ahead of the encoder by threads.

A picture is named as in its record's "image"; it stands at its first appearance in the data.
Decoding releases Python's lock, so a few threads keep an encoder fed.

Shape letters: B pictures of a batch.
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

Item = TypeVar("Item")


class Picture(NamedTuple):
    """A picture's name and the record that first shows it."""

    image: str
    record_id: str


class LoadedBatch(NamedTuple):
    """Pixels of the pictures that could be read, where they belong, and the others with reasons."""

    pixels_BCHW: Tensor | None
    rows: list[int]
    crc32s: list[int]
    skipped: dict[str, str]


def distinct_pictures(records: Iterable[Record]) -> tuple[list[Picture], list[str]]:
    """List the corpus's pictures once each, and the text of the answers in the same record.

    Raises:
        UserError: if no record has a picture.
    """
    captions: dict[Picture, str] = {}
    seen: set[str] = set()
    for record in records:
        if record.image is not None and record.image not in seen:
            seen.add(record.image)
            answers = [turn.text for turn in record.turns if turn.role == "gpt"]
            captions[Picture(record.image, record.id)] = "\n".join(answers)
    if not captions:
        raise UserError("--data_path holds no record with an image: there is nothing to label")
    return list(captions), list(captions.values())


def spread(items: Sequence[Item], size: int) -> list[Item]:
    """Take `size` items spread evenly over all of them, or all if there are no more."""
    positions = np.linspace(0, len(items) - 1, min(size, len(items))).astype(int)
    return [items[i] for i in positions]


@dataclass(frozen=True)
class PictureLoader:
    """Reads pictures from a folder as an encoder's input."""

    folder: str
    transform: ImageTransform
    on_bad_image: str = "fail"
    threads: int = 4

    def batches(self, pictures: Sequence[Picture], size: int) -> Iterator[LoadedBatch]:
        """Yield the pictures in order, `size` at a time, some loaded ahead.

        Raises:
            UserError: for a picture that cannot be read, unless `on_bad_image` is ``skip``.
        """
        loaded = self._ahead(pictures, 2 * size)
        for start in range(0, len(pictures), size):
            pixels, rows, crc32s, skipped = [], [], [], {}
            for row in range(start, min(start + size, len(pictures))):
                found = next(loaded).result()
                if isinstance(found, str):
                    skipped[pictures[row].image] = found
                    continue
                pixels.append(found[0])
                crc32s.append(found[1])
                rows.append(row)
            yield LoadedBatch(torch.stack(pixels) if pixels else None, rows, crc32s, skipped)

    def _ahead(
        self, pictures: Sequence[Picture], depth: int
    ) -> Iterator[Future[tuple[Tensor, int] | str]]:
        with ThreadPoolExecutor(self.threads) as pool:
            waiting: deque[Future[tuple[Tensor, int] | str]] = deque()
            try:
                for picture in pictures:
                    waiting.append(pool.submit(self._load, picture))
                    if len(waiting) > depth:
                        yield waiting.popleft()
                while waiting:
                    yield waiting.popleft()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _load(self, picture: Picture) -> tuple[Tensor, int] | str:
        """Return a picture's pixels and CRC-32, or why there are none."""
        try:
            image, crc32 = load_image(Path(self.folder), picture.image, picture.record_id)
            return self.transform(image), crc32
        except UserError as error:
            if self.on_bad_image == "skip":
                return str(error)
            raise UserError(
                f"{error}. Or give it no labels with --on_bad_image skip; finished shards are kept"
            ) from error
