"""Read pictures with a projector: every patch's nearest word (SEA eq. 4), and is it right?

Only the vision tower, the projector and the embedding table work, on any device; the LLM's layers
stay where they were loaded. A word is right if the truth file counts it among the patch's words;
without one, if it occurs in the caption, which leaves most things out.

Shape letters: I pictures, P patches, N visual tokens, H and W pixels, T tokens of a caption,
D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from llava_sea.alignment import nearest_words, tacs
from llava_sea.data.images import ImageTransform, load_image
from llava_sea.data.records import Record
from llava_sea.data.tokenize import tell_beyond
from llava_sea.errors import UserError
from llava_sea.labels.occurrence import Truth, find_occurrences
from llava_sea.model.projector_io import load_projector
from llava_sea.model.stage1 import Stage1Model
from llava_sea.report.cells import Cell, Grid, Near, Picture
from llava_sea.report.folder import Projector
from llava_sea.report.words import Words, best_words
from llava_sea.train.evaluation import embedding_length

PICTURE_BATCH = 8
LISTED_WORDS = 5
"""Nearest words listed for a patch when it is pointed at."""
LISTED_TRUE = 8


def choose_records(records: Sequence[Record], count: int | None) -> list[Record]:
    """Return the first records that have a picture; nobody picks the nice ones.

    Args:
        records: the held-out records.
        count: how many are wanted; None: all.

    Raises:
        UserError: if no record has a picture.
    """
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
        self.check_truth(records)
        captions = [record.turns[-1].text.strip() for record in records]
        in_caption = [set(ids.tolist()) for ids in find_occurrences(captions, self.words.words)]
        pictures: list[Picture] = []
        for batch, pixels_I3HW in self._batches(records):
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

    @torch.no_grad()
    def tokens(
        self,
        records: Sequence[Record],
        projectors: Sequence[Projector],
        patches: Sequence[Sequence[int]],
    ) -> list[Tensor]:
        """Return some visual tokens of pictures, float32 on the CPU, for each projector ``(N, D)``.

        Args:
            records: records with pictures.
            projectors: states of the projector.
            patches: for each record the patches wanted; the tokens follow in that order.

        Raises:
            UserError: if a picture can't be read or a projector does not fit.
        """
        self.model.eval()
        found: list[list[Tensor]] = [[] for _ in projectors]
        for batch, pixels_I3HW in self._batches(records):
            for projector, parts in zip(projectors, found, strict=True):
                load_projector(self.model.projector, projector.path)
                visual_IPD = self._project(pixels_I3HW)
                parts += [
                    visual_PD[list(wanted)].float().cpu()
                    for visual_PD, wanted in zip(visual_IPD, patches[batch], strict=True)
                ]
        return [torch.cat(parts) for parts in found]

    @property
    def num_patches(self) -> int:
        """How many patches a picture has."""
        return self.patch_grid[0] * self.patch_grid[1]

    def check_truth(self, records: Sequence[Record]) -> None:
        """Refuse a truth file that does not know each picture patch by patch.

        Raises:
            UserError: naming the first picture that does not fit.
        """
        if self.truth is None:
            return
        for record in records:
            _check_truth(self.truth, str(record.image), self.num_patches)

    def _batches(self, records: Sequence[Record]) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, len(records), PICTURE_BATCH):
            batch = slice(start, start + PICTURE_BATCH)
            yield batch, torch.stack([self._load(record) for record in records[batch]])

    def _project(self, pixels_I3HW: Tensor) -> Tensor:
        """Return the patches' visual tokens; other tokens, as CLS, come first and are left out."""
        visual_IPD = self.model.project(pixels_I3HW.to(self.device))
        return visual_IPD[:, -self.num_patches :]

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
        visual_IPD = self._project(pixels_I3HW)
        visual_ND = visual_IPD.flatten(0, 1)
        found = nearest_words(visual_ND, self.words.blocks(self.model, self.device))
        rows_length = embedding_length(self.model, self.words.ids_QM, self.device)
        distance_IP = found.distance_N.view(len(pictures), -1)
        unit_IP = found.unit_distance_N.view(len(pictures), -1)
        ids_NK, cosine_NK = best_words(
            visual_ND, self.words.blocks(self.model, self.device), LISTED_WORDS
        )
        best = iter(zip(ids_NK.tolist(), cosine_NK.tolist(), strict=True))
        for i, picture in enumerate(pictures):
            cells = [
                self._cell(picture.record, patch, *next(best), in_caption[i])
                for patch in range(self.num_patches)
            ]
            gap, length = float(distance_IP[i].mean()), visual_IPD[i].float().norm(dim=-1).mean()
            beside_gap = float(unit_IP[i].mean()), float(length), rows_length
            score = self._tacs(visual_IPD[i], picture.caption)
            picture.grids.append(Grid(label, self.patch_grid[1], cells, score, gap, beside_gap))

    def _cell(
        self,
        record: Record,
        patch: int,
        ids: Sequence[int],
        cosines: Sequence[float],
        in_caption: set[int],
    ) -> Cell:
        image, listed = str(record.image), self.words.words
        if self.truth is None:
            right, is_object, known = {listed[word_id] for word_id in in_caption}, None, []
        else:
            right = set(self.truth.words(image, patch))
            is_object = self.truth.is_object(image, patch)
            known = sorted(right, key=lambda word: (self.words.rank.get(word, len(listed)), word))
        nearest = tuple(
            Near(listed[word_id], cosine, listed[word_id] in right)
            for word_id, cosine in zip(ids, cosines, strict=True)
        )
        first = nearest[0]
        return Cell(
            first.word, first.cosine, first.right, is_object, nearest, tuple(known[:LISTED_TRUE])
        )

    def _tacs(self, visual_PD: Tensor, caption: str) -> float | None:
        ids = self.tokenizer(caption, add_special_tokens=False)["input_ids"]
        if not ids:
            return None
        if beyond := tell_beyond(ids, self.tokenizer, self.model.num_rows):
            raise UserError(f"--data_path: the caption {caption!r} holds {beyond}; remove it")
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
