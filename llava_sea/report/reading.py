"""Read pictures with a projector: every patch's nearest word (SEA eq. 4), and is it right?

Only the vision tower, the projector and the embedding table work, on any device; the LLM's layers
stay where they were loaded. Words are embedded in blocks. A word is right if the truth file counts
it among the patch's words; without one, if it occurs in the caption, which leaves most things out.

Shape letters: I pictures, P patches, Q words, M tokens of a word, N patches of several pictures,
D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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


@torch.no_grad()
def read_pictures(
    model: Stage1Model,
    projectors: Sequence[Projector],
    records: Sequence[Record],
    image_folder: str,
    transform: ImageTransform,
    tokenizer: Any,
    words: Words,
    grid: tuple[int, int],
    *,
    truth: Truth | None = None,
    device: torch.device | None = None,
) -> list[Picture]:
    """Say what every patch of some pictures says, with each projector.

    Args:
        model: its tower, projector and embeddings are on `device`; the projector's weights change.
        projectors: states of the projector, in the order they are shown in.
        records: records with pictures; the caption is the last turn.
        image_folder: what the records' image names are relative to.
        transform: the one of the run.
        tokenizer: the LLM's.
        words: the words that the nearest is sought among.
        grid: rows and columns of patches.
        truth: the true words of every patch, where they are known.
        device: where pictures and words go; default: the CPU.

    Raises:
        UserError: if a picture can't be read, a projector does not fit, or the truth lacks a
            picture or has another number of patches.
    """
    device = device or torch.device("cpu")
    model.eval()
    captions = [record.turns[-1].text.strip() for record in records]
    in_caption = [set(ids.tolist()) for ids in find_occurrences(captions, words.words)]
    encoded = tokenizer(captions, add_special_tokens=False)["input_ids"]
    pictures: list[Picture] = []
    for start in range(0, len(records), PICTURE_BATCH):
        batch = range(start, min(len(records), start + PICTURE_BATCH))
        pixels = torch.stack(
            [
                transform(load_image(image_folder, str(records[i].image), records[i].id).image)
                for i in batch
            ]
        )
        grids: dict[int, list[Grid]] = {i: [] for i in batch}
        for projector in projectors:
            load_projector(model.projector, projector.path)
            visual_IPD = model.project(pixels.to(device))
            visual_IPD = visual_IPD[:, -grid[0] * grid[1] :]  # a class token comes first
            found = nearest_words(visual_IPD.flatten(0, 1), words.blocks(model, device))
            patches = visual_IPD.shape[1]
            for row, i in enumerate(batch):
                if truth is not None:
                    _check_truth(truth, str(records[i].image), patches)
                part = slice(row * patches, (row + 1) * patches)
                cells = [
                    _cell(records[i], patch, word_id, cosine, words.words, in_caption[i], truth)
                    for patch, (word_id, cosine) in enumerate(
                        zip(found.ids_N[part].tolist(), found.cosine_N[part].tolist(), strict=True)
                    )
                ]
                score = None
                if encoded[i]:
                    caption_TD = model.embed(torch.tensor(encoded[i], device=device))
                    score = float(tacs(visual_IPD[row], caption_TD))
                gap = float(found.distance_N[part].mean())
                grids[i].append(Grid(projector.label, grid[1], cells, score, gap))
        for row, i in enumerate(batch):
            image = as_seen(pixels[row], transform.geometry())
            pictures.append(Picture(records[i], captions[i], image, grids[i]))
    return pictures


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
    raise UserError(f"--truth: has more than the {patches} patches that the model makes of {image!r}")


def _cell(
    record: Record,
    patch: int,
    word_id: int,
    cosine: float,
    words: Sequence[str],
    in_caption: set[int],
    truth: Truth | None,
) -> Cell:
    word = words[word_id]
    if truth is None:
        return Cell(word, cosine, word_id in in_caption)
    image = str(record.image)
    return Cell(word, cosine, word in truth.words(image, patch), truth.is_object(image, patch))
