"""All measures of label quality for every kind of label: features x sign x centre x n.

Images and their mosaics (`place.py`) are mined once for each kind with the largest n; a smaller n
is the beginning of the same list. Features come one after the other, so memory holds the labels of
one.

Shape letters: I images, P patches, N labels, S sets of true words, Q words, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llava_sea.errors import UserError
from llava_sea.labels.calibration import mean_patch
from llava_sea.labels.caption_lift import (
    LiftMeasure,
    caption_rates,
    finite,
    measure_lift,
    spread_words,
)
from llava_sea.labels.drawing import Agreement, Precision, agreement, draw_chances, precision
from llava_sea.labels.images import CorpusImage, ImageLoader
from llava_sea.labels.mine_shards import encode_batches, mine_batch
from llava_sea.labels.options import CENTERS, QualityOptions
from llava_sea.labels.patch_features import PatchEncoder
from llava_sea.labels.place import Place, make_mosaics, measure_place

SIGNS = (1, -1)


@dataclass(frozen=True)
class Row:
    """One kind of label with all its measures."""

    features: str
    sign: int
    center: str
    top_n: int
    negative_share: float  # of patch-word cosines (less the mean patch's, if centred)
    lift: LiftMeasure
    agreement: Agreement
    place: Place
    labelled: float  # share of patches with a label
    precision: dict[str, Precision] | None  # object, background, all; with --truth

    @property
    def kind(self) -> tuple[str, str, int]:
        """All but n."""
        return self.features, self.center, self.sign

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON; NaN and infinity become None."""
        return finite(asdict(self))


@dataclass(frozen=True)
class KnownTruth:
    """Which words are true of each patch of the sample, and which patches show an object."""

    right_SQ: NDArray[np.bool_]
    set_IP: NDArray[np.int64]
    object_IP: NDArray[np.bool_]


@dataclass(frozen=True)
class Sample:
    """The images to measure on, with encoder and words."""

    options: QualityOptions
    encoder: PatchEncoder
    images: list[CorpusImage]
    words: list[str]
    words_QD: Tensor
    occurrences: list[NDArray[np.int64]]
    grid: tuple[int, int]
    truth: KnownTruth | None


def measure_features(
    sample: Sample, features: str, progress: Callable[[int], object]
) -> Iterator[Row]:
    """Measure labels from one kind of patch features: both signs, both centres, every n.

    `progress` is called with the number of images done since the last call.

    Raises:
        UserError: if fewer than two images can be read, or one cannot and must be.
    """
    options, encoder = sample.options, sample.encoder
    loader = ImageLoader.of(options)
    batches = encode_batches(encoder, loader, sample.images, options, features)
    mean_D = torch.from_numpy(mean_patch(p for _, p in batches if p is not None))
    kinds = [(center, sign) for center in CENTERS for sign in SIGNS]
    # For each kind the ids and scores of the images and of their mosaics, batch by batch.
    mined: dict[tuple[str, int], list[Any]] = {kind: [] for kind in kinds}
    negative: dict[str, list[float]] = {center: [] for center in CENTERS}
    few_QD = spread_words(sample.words_QD)
    numbers: list[int] = []
    before: Tensor | None = None
    for batch in loader.batches(sample.images, options.batch_size):
        progress(len(batch.rows) + len(batch.skipped))
        if batch.pixels_BCHW is None:
            continue
        numbers += batch.rows
        chain = batch.pixels_BCHW
        chain = chain if before is None else torch.cat([before, chain])
        before = chain[-1:]
        shown = encoder.encode_images(batch.pixels_BCHW, features)
        cut = make_mosaics(chain, sample.grid)
        cut = encoder.encode_images(cut, features) if len(cut) else shown[:0]
        for center in CENTERS:
            shift = mean_D.to(shown) if center == "corpus" else torch.zeros_like(shown[0, 0])
            below_0 = ((shown - shift).flatten(0, 1) @ few_QD.T < 0).float().mean()
            negative[center] += [float(below_0)] * len(batch.rows)
            both = torch.cat([shown, cut]) - shift
            for sign in SIGNS:
                ids, scores = mine_batch(both, sample.words_QD, max(options.top_n), sign)
                parts = (ids[: len(shown)], scores[: len(shown)], ids[len(shown) :])
                mined[center, sign].append((*parts, scores[len(shown) :]))
    if len(numbers) < 2:
        raise UserError(
            f"{len(numbers)} of the sample's {len(sample.images)} images can be read; two are "
            "needed: look at --image_folder"
        )
    for center, sign in kinds:
        arrays = [np.concatenate(parts) for parts in zip(*mined[center, sign], strict=True)]
        share = float(np.mean(negative[center]))
        for n in options.top_n:
            measured = _measure(sample, numbers, sign, [array[..., :n] for array in arrays])
            yield Row(features, sign, center, n, share, *measured)


def _measure(
    sample: Sample, numbers: list[int], sign: int, arrays: list[NDArray[Any]]
) -> tuple[LiftMeasure, Agreement, Place, float, dict[str, Precision] | None]:
    """Return all that a row holds behind its kind, n and share of negative cosines."""
    ids_IPN, scores_IPN, mosaic_ids_IPN, mosaic_scores_IPN = arrays
    num_words = len(sample.words)
    kept_IPN = scores_IPN > 0
    labels_IPN = np.where(kept_IPN, ids_IPN.astype(np.int64), -1)
    rates = caption_rates(labels_IPN, numbers, sample.occurrences)
    seen = [sample.occurrences[number] for number in numbers]
    found = None
    if sample.truth is not None:
        right_IPN = sample.truth.right_SQ[sample.truth.set_IP[numbers][..., None], ids_IPN]
        object_IP = sample.truth.object_IP[numbers]
        kinds = {"object": object_IP, "background": ~object_IP, "all": np.ones_like(object_IP)}
        found = {kind: precision(right_IPN, scores_IPN, of_IP) for kind, of_IP in kinds.items()}
    return (
        measure_lift(sign, labels_IPN, *rates, sample.words),
        agreement(ids_IPN, draw_chances(scores_IPN), sample.grid, num_words),
        measure_place(
            mosaic_ids_IPN,
            draw_chances(mosaic_scores_IPN),
            sample.grid,
            seen[:-1],
            seen[1:],
            num_words,
        ),
        float(kept_IPN.any(-1).mean()),
        found,
    )
