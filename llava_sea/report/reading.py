"""Read pictures with a projector: every patch's nearest word (SEA eq. 4), and is it right?

Only the vision tower, the projector and the embedding table work, on any device; the LLM's layers
stay where they were loaded. Words are embedded in blocks. A word is right if the truth file counts
it among the patch's words; without one, if it occurs in the caption, which leaves most things out.

Shape letters: I pictures, P patches, H and W pixels, Q words, M tokens of a word, T tokens of a
caption, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from llava_sea.alignment import nearest_words, tacs, word_targets
from llava_sea.data.images import ImageTransform, load_image
from llava_sea.data.records import Record
from llava_sea.data.words import tokenize_words
from llava_sea.errors import UserError
from llava_sea.labels.occurrence import find_occurrences
from llava_sea.model.projector_io import load_projector
from llava_sea.model.stage1 import Stage1Model
from llava_sea.report.folder import Projector
from llava_sea.train.evaluation import Truth

WORD_BLOCK = 2048
PICTURE_BATCH = 8


@dataclass(frozen=True)
class Cell:
    """What one patch says."""

    word: str
    cosine: float
    right: bool
    is_object: bool | None = None
    """Whether an object covers the patch; None where no truth is known."""


@dataclass(frozen=True)
class Grid:
    """What the patches of one picture say with one projector, row by row."""

    label: str
    columns: int
    cells: list[Cell]
    tacs: float | None
    """Eq. 14 of this picture and its caption; None for an empty caption."""
    gap: float
    """Eq. 5 of this picture."""

    @property
    def rows(self) -> int:
        """How many rows of patches."""
        return len(self.cells) // self.columns

    @property
    def right(self) -> int:
        """How many patches have a right word."""
        return sum(cell.right for cell in self.cells)


@dataclass(frozen=True)
class Picture:
    """One held-out picture as the model sees it, with what it says."""

    record: Record
    caption: str
    image: Image.Image
    grids: list[Grid]


class Words:
    """The words among which the nearest is sought, and their tokens."""

    def __init__(self, words: Sequence[str], tokenizer: Any) -> None:
        """Tokenise words; those that the tokenizer can't write are left out and counted."""
        tokens = tokenize_words(words, tokenizer)
        kept_Q = ~tokens.dropped_Q
        self.words = np.array(words, dtype=object)[kept_Q].tolist()
        self.ids_QM = torch.from_numpy(tokens.ids_QM[kept_Q].astype(np.int64))
        self.num_dropped = tokens.num_dropped

    def blocks(self, model: Stage1Model, device: torch.device) -> Iterator[Tensor]:
        """Yield the words' embeddings, the mean over each word's tokens (eq. 10)."""
        for ids_QM in self.ids_QM.split(WORD_BLOCK):
            ids_QM = ids_QM.to(device)
            yield word_targets(model.embed(ids_QM.clamp(min=0)), ids_QM >= 0)


def choose_records(records: Sequence[Record], count: int) -> list[Record]:
    """Return the first `count` records that have a picture; nobody picks the nice ones.

    Raises:
        UserError: if `count` is not positive, or no record has a picture.
    """
    if count < 1:
        raise UserError(f"--num_images {count}: must be at least 1")
    chosen = [record for record in records if record.image is not None][:count]
    if not chosen:
        raise UserError(f"--data_path: none of its {len(records)} records has a picture")
    return chosen


@dataclass
class PictureReader:
    """Says what every patch of pictures says; `model`'s tower and so on are on `device`."""

    model: Stage1Model
    tokenizer: Any
    words: Words
    transform: ImageTransform
    image_folder: str
    patch_grid: tuple[int, int]
    """Rows and columns of patches."""
    truth: Truth | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @torch.no_grad()
    def read(self, records: Sequence[Record], projectors: Sequence[Projector]) -> list[Picture]:
        """Read records' pictures with each projector in turn; the model keeps the last.

        Args:
            records: records with pictures; the caption is the last turn.
            projectors: states of the projector, in the order they are shown in.

        Raises:
            UserError: if a picture can't be read, a projector does not fit, or the truth lacks a
                picture or has another number of patches.
        """
        self.model.eval()
        captions = [record.turns[-1].text.strip() for record in records]
        in_caption = [set(ids.tolist()) for ids in find_occurrences(captions, self.words.words)]
        pictures: list[Picture] = []
        for start in range(0, len(records), PICTURE_BATCH):
            batch = slice(start, start + PICTURE_BATCH)
            pixels_I3HW = torch.stack([self._load(record) for record in records[batch]])
            new = [
                Picture(record, caption, as_seen(pixels, self.transform.geometry()), [])
                for record, caption, pixels in zip(
                    records[batch], captions[batch], pixels_I3HW, strict=True
                )
            ]
            for projector in projectors:
                load_projector(self.model.projector, projector.path)
                self._add_grids(new, projector.label, pixels_I3HW, in_caption[batch])
            pictures += new
        return pictures

    def _load(self, record: Record) -> Tensor:
        loaded = load_image(self.image_folder, str(record.image), record.id)
        return self.transform(loaded.image)

    def _add_grids(
        self,
        pictures: Sequence[Picture],
        label: str,
        pixels_I3HW: Tensor,
        in_caption: Sequence[set[int]],
    ) -> None:
        """Add to each picture the grid of what its patches say with the present projector."""
        rows, columns = self.patch_grid
        visual_IPD = self.model.project(pixels_I3HW.to(self.device))
        visual_IPD = visual_IPD[:, -rows * columns :]  # other tokens, as CLS, come first
        blocks = self.words.blocks(self.model, self.device)
        found = nearest_words(visual_IPD.flatten(0, 1), blocks)
        ids_IP, cosine_IP, distance_IP = (t.view(len(pictures), -1) for t in found)
        for i, picture in enumerate(pictures):
            if self.truth is not None:
                _check_truth(self.truth, str(picture.record.image), rows * columns)
            cells = [
                self._cell(picture.record, patch, word_id, cosine, in_caption[i])
                for patch, (word_id, cosine) in enumerate(
                    zip(ids_IP[i].tolist(), cosine_IP[i].tolist(), strict=True)
                )
            ]
            gap = float(distance_IP[i].mean())
            score = self._tacs(visual_IPD[i], picture.caption)
            picture.grids.append(Grid(label, columns, cells, score, gap))

    def _cell(
        self, record: Record, patch: int, word_id: int, cosine: float, in_caption: set[int]
    ) -> Cell:
        word = self.words.words[word_id]
        if self.truth is None:
            return Cell(word, cosine, word_id in in_caption)
        image = str(record.image)
        right = word in self.truth.words(image, patch)
        return Cell(word, cosine, right, self.truth.is_object(image, patch))

    def _tacs(self, visual_PD: Tensor, caption: str) -> float | None:
        ids = self.tokenizer(caption, add_special_tokens=False)["input_ids"]
        if not ids:
            return None
        caption_TD = self.model.embed(torch.tensor(ids, device=self.device))
        return float(tacs(visual_PD, caption_TD))


def as_seen(pixels: Tensor, geometry: dict[str, Any]) -> Image.Image:
    """Turn a model's pixels ``(3, H, W)`` back into a picture: normalisation and scale undone."""
    mean = torch.tensor(geometry["mean"] or [0.0] * 3).view(3, 1, 1)
    std = torch.tensor(geometry["std"] or [1.0] * 3).view(3, 1, 1)
    values = (pixels * std + mean) / (geometry["rescale"] or 1.0)
    array = values.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(array)


def _check_truth(truth: Truth, image: str, patches: int) -> None:
    try:
        truth.words(image, patches - 1)
        truth.is_object(image, patches - 1)
    except KeyError:
        raise UserError(
            f"--truth: knows nothing of the picture {image!r}; was it made for this data?"
        ) from None
    except IndexError:
        raise UserError(
            f"--truth: has fewer than the {patches} patches that the model makes of {image!r}"
        ) from None
    try:
        truth.words(image, patches)
    except IndexError:
        return
    raise UserError(
        f"--truth: has more than the {patches} patches that the model makes of {image!r}"
    )
