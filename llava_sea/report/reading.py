"""Read images with a projector: every patch's nearest words (SEA eq. 4), and are they right?

Only the vision tower, the projector and the embedding table work, on any device; the LLM's layers
stay where they were loaded. A word is right if the truth file counts it among the patch's words;
without one, if it occurs in the caption, which leaves most things out.

Shape letters: I images, P patches, N visual tokens, H and W pixels, Q words, M tokens of a word,
T tokens of a caption, K best words, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from llava_sea.alignment import tacs
from llava_sea.data.image_source import ImageSource
from llava_sea.data.images import ImageTransform, load_image
from llava_sea.data.records import Record
from llava_sea.data.tokenize import tell_beyond
from llava_sea.data.words import tokenize_words
from llava_sea.errors import UserError
from llava_sea.labels.occurrence import Truth, find_occurrences
from llava_sea.model.projector_io import load_projector
from llava_sea.model.stage1 import Stage1Model
from llava_sea.report.grid import Cell, Example, Grid, Near
from llava_sea.report.measures import IN_CAPTION, PRECISION
from llava_sea.report.runs import Projector

IMAGE_BATCH = 8
LISTED_WORDS = 5
"""Nearest words listed for a patch when it is pointed at."""
LISTED_TRUE = 8


class Words:
    """The words among which the nearest is sought, and their tokens."""

    def __init__(self, words: Sequence[str], tokenizer: Any, num_rows: int) -> None:
        """Tokenise words; those that the tokenizer can't write are left out and counted."""
        tokens = tokenize_words(words, tokenizer, num_rows)
        kept_Q = ~tokens.dropped_Q
        self.words = [word for word, kept in zip(words, kept_Q, strict=True) if kept]
        self.rank = {word: place for place, word in enumerate(self.words)}
        self.ids_QM = torch.from_numpy(tokens.ids_QM[kept_Q].astype(np.int64))
        self.num_dropped = tokens.num_dropped


def best_words(visual_ND: Tensor, blocks: Iterable[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Find the `count` words with the largest cosine (eq. 4 lists only the first of them).

    Returns:
        Places in the blocks' list and cosines, both ``(N, K)``, the largest first.
    """
    unit_ND = normalize(visual_ND.float(), dim=-1)
    ids_NK = torch.empty(len(visual_ND), 0, dtype=torch.int64, device=visual_ND.device)
    cosine_NK = torch.empty(len(visual_ND), 0, device=visual_ND.device)
    first = 0
    for words_QD in blocks:
        cosine_NQ = unit_ND @ normalize(words_QD.float(), dim=-1).T
        top = cosine_NQ.topk(min(count, len(words_QD)), dim=1)
        cosine_NK = torch.cat([cosine_NK, top.values], dim=1)
        ids_NK = torch.cat([ids_NK, top.indices + first], dim=1)
        order_NK = cosine_NK.argsort(dim=1, descending=True, stable=True)[:, :count]
        cosine_NK, ids_NK = cosine_NK.gather(1, order_NK), ids_NK.gather(1, order_NK)
        first += len(words_QD)
    return ids_NK, cosine_NK


@dataclass
class PatchReader:
    """Reads the patches of images; `model`'s tower, projector and embeddings are on `device`."""

    model: Stage1Model
    tokenizer: Any
    words: Words
    transform: ImageTransform
    image_folder: str | ImageSource
    patch_grid: tuple[int, int]
    """Rows and columns of patches."""
    truth: Truth | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def num_patches(self) -> int:
        """Return the number of an image's patches."""
        return self.patch_grid[0] * self.patch_grid[1]

    @torch.no_grad()
    def read(self, records: Sequence[Record], projectors: Sequence[Projector]) -> list[Example]:
        """Read records' images with each projector in turn; the model keeps the last."""
        self.model.eval()
        self.check_truth(records)
        captions = [record.turns[-1].text.strip() for record in records]
        in_caption = [
            {self.words.words[word_id] for word_id in ids.tolist()}
            for ids in find_occurrences(captions, self.words.words)
        ]
        examples: list[Example] = []
        geometry = self.transform.geometry()
        for batch, pixels_I3HW in self._batches(records):
            read = zip(records[batch], captions[batch], pixels_I3HW, strict=True)
            new = [Example(one, text, as_seen(pixels, geometry), []) for one, text, pixels in read]
            for projector in projectors:
                load_projector(self.model.projector, projector.path)
                self._add_grids(new, projector.label, pixels_I3HW, in_caption[batch])
            examples += new
        return examples

    @torch.no_grad()
    def tokens(
        self,
        records: Sequence[Record],
        projectors: Sequence[Projector],
        patches: Sequence[tuple[int, int]],
    ) -> list[Tensor]:
        """Return some visual tokens of images, float32 on the CPU, for each projector ``(N, D)``.

        `patches` are numbers of the record and of the patch in it, ascending by record.
        """
        self.model.eval()
        found: list[list[Tensor]] = [[] for _ in projectors]
        for batch, pixels_I3HW in self._batches(records):
            wanted = [(i - batch.start, p) for i, p in patches if batch.start <= i < batch.stop]
            image_N, patch_N = torch.tensor(wanted, dtype=torch.long).view(-1, 2).T
            for projector, parts in zip(projectors, found, strict=True):
                load_projector(self.model.projector, projector.path)
                parts.append(self._project(pixels_I3HW)[image_N, patch_N].float().cpu())
        return [torch.cat(parts) for parts in found]

    @torch.no_grad()
    def word_vectors(self, places: Sequence[int]) -> Tensor:
        """Return the embeddings of the words at some places, float32 on the CPU ``(Q, D)``."""
        blocks = self.model.word_blocks(self.words.ids_QM[list(places)], self.device)
        return torch.cat(list(blocks)).float().cpu()

    @torch.no_grad()
    def grid(self, label: str, pixels_3HW: Tensor) -> Grid:
        """Read one image with the projector that the model has; no truth is known of it."""
        visual_PD = self._project(pixels_3HW[None])[0]
        best_PK = best_words(visual_PD, self._word_blocks(), LISTED_WORDS)
        cells = [
            Cell(tuple(Near(self.words.words[i], c, False) for i, c in zip(*patch, strict=True)))
            for patch in zip(*(values_PK.tolist() for values_PK in best_PK), strict=True)
        ]
        return Grid(label, self.patch_grid[1], cells)

    def check_truth(self, records: Sequence[Record]) -> None:
        """Raise a `UserError` over a truth file that does not know each image patch by patch."""
        if self.truth is not None:
            for record in records:
                self.truth.check(str(record.image), self.num_patches)

    def _word_blocks(self) -> Iterator[Tensor]:
        return self.model.word_blocks(self.words.ids_QM, self.device)

    def _batches(self, records: Sequence[Record]) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, len(records), IMAGE_BATCH):
            batch = slice(start, start + IMAGE_BATCH)
            yield batch, torch.stack([self._load(record) for record in records[batch]])

    def _load(self, record: Record) -> Tensor:
        return self.transform(load_image(self.image_folder, str(record.image), record.id).image)

    def _project(self, pixels_I3HW: Tensor) -> Tensor:
        """Return the patches' visual tokens; other tokens, as CLS, come first and are left out."""
        visual_IPD = self.model.project(pixels_I3HW.to(self.device))
        return visual_IPD[:, -self.num_patches :]

    def _add_grids(
        self,
        examples: Sequence[Example],
        label: str,
        pixels_I3HW: Tensor,
        in_caption: Sequence[set[str]],
    ) -> None:
        """Add the grid of the present projector to each image."""
        visual_IPD = self._project(pixels_I3HW)
        _, means = self.model.near_words(visual_IPD, self.words.ids_QM)
        rows_length = self.model.embedding_length(self.words.ids_QM, self.device)
        ids_NK, cosine_NK = best_words(visual_IPD.flatten(0, 1), self._word_blocks(), LISTED_WORDS)
        best = iter(zip(ids_NK.tolist(), cosine_NK.tolist(), strict=True))
        for i, example in enumerate(examples):
            cells = [
                self._cell(example.record, patch, *next(best), in_caption[i])
                for patch in range(self.num_patches)
            ]
            measured = {f"eval_{name}": float(mean_I[i]) for name, mean_I in means.items()}
            measured["eval_embedding_length"] = rows_length
            if (score := self._tacs(visual_IPD[i], example.caption)) is not None:
                measured["eval_tacs"] = score
            share = sum(cell.right for cell in cells) / len(cells)
            measured[IN_CAPTION if self.truth is None else PRECISION] = share
            example.grids.append(Grid(label, self.patch_grid[1], cells, measured))

    def _cell(
        self,
        record: Record,
        patch: int,
        ids: Sequence[int],
        cosines: Sequence[float],
        right: set[str] | frozenset[str],
    ) -> Cell:
        """Return a patch; `right` are the caption's words, which count where no truth is known."""
        is_object, known = None, []
        if self.truth is not None:
            right = self.truth.words(str(record.image), patch)
            is_object = self.truth.is_object(str(record.image), patch)
            last = len(self.words.words)
            known = sorted(right, key=lambda word: (self.words.rank.get(word, last), word))
        words = [self.words.words[word_id] for word_id in ids]
        nearest = (Near(w, c, w in right) for w, c in zip(words, cosines, strict=True))
        return Cell(tuple(nearest), is_object, tuple(known[:LISTED_TRUE]))

    def _tacs(self, visual_PD: Tensor, caption: str) -> float | None:
        ids = self.tokenizer(caption, add_special_tokens=False)["input_ids"]
        if not ids:
            return None
        if beyond := tell_beyond(ids, self.tokenizer, self.model.num_rows):
            raise UserError(f"--data_path: the caption {caption!r} holds {beyond}; remove it")
        caption_TD = self.model.embed(torch.tensor(ids, device=self.device))
        return float(tacs(visual_PD, caption_TD))


def as_seen(pixels: Tensor, geometry: dict[str, Any]) -> Image.Image:
    """Turn a model's pixels ``(3, H, W)`` back into an image: normalisation and scale undone."""
    mean = torch.tensor(geometry["mean"] or [0.0] * 3).view(3, 1, 1)
    std = torch.tensor(geometry["std"] or [1.0] * 3).view(3, 1, 1)
    values = (pixels * std + mean) / (geometry["rescale"] or 1.0)
    array = values.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(array)
