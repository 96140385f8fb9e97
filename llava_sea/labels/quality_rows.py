"""All measures of label quality for every kind of label: features x sign x centre x n.

Pictures and their mosaics (`place.py`) are mined once for each kind with the largest n; a smaller n
is the beginning of the same list. Features come one after the other, so memory holds the labels of
one.

Shape letters: I pictures, P patches, N labels, S sets of true words, Q words, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llava_sea.errors import UserError
from llava_sea.labels.caption_lift import LiftMeasure, LiftTally, finite, spread_words
from llava_sea.labels.center import mean_patch
from llava_sea.labels.drawing import Agreement, Precision, agreement, draw_chances, precision
from llava_sea.labels.mine_shards import encode_batches, make_loader, mine_batch
from llava_sea.labels.options import CENTERS
from llava_sea.labels.patch_features import PatchEncoder
from llava_sea.labels.pictures import Picture
from llava_sea.labels.place import Place, make_mosaics, measure_place
from llava_sea.labels.quality_options import QualityOptions

SIGNS = (1, -1)


@dataclass(frozen=True)
class Row:
    """One kind of label and what was measured of it."""

    features: str
    sign: int
    center: str
    top_n: int
    lift: LiftMeasure
    negative_share: float  # of patch-word cosines (less the mean patch's, if centred)
    agreement: Agreement
    place: Place
    labelled: float  # share of patches with a label
    precision: dict[str, Precision] | None  # object, background, all; with --truth

    @property
    def kind(self) -> tuple[str, str, int]:
        """All but n."""
        return self.features, self.center, self.sign

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON; what is not finite becomes None."""
        fields = asdict(self) | {
            "agreement": self.agreement._asdict() | {"local": self.agreement.local},
            "place": self.place._asdict(),
        }
        del fields["lift"]["sign"]
        if self.precision is not None:
            fields["precision"] = {kind: p._asdict() for kind, p in self.precision.items()}
        return finite(fields)


@dataclass(frozen=True)
class KnownTruth:
    """Which words are true of each patch of the sample, and which patches show an object."""

    right_SQ: NDArray[np.bool_]
    set_IP: NDArray[np.int64]
    object_IP: NDArray[np.bool_]


@dataclass(frozen=True)
class Sample:
    """The pictures to measure on, and with what."""

    options: QualityOptions
    encoder: PatchEncoder
    pictures: list[Picture]
    words: list[str]
    words_QD: Tensor
    occurrences: list[NDArray[np.int64]]
    grid: tuple[int, int]
    truth: KnownTruth | None


@dataclass
class _Mined:
    """Labels of a run of pictures, batch by batch."""

    ids: list[NDArray[np.uint32]] = field(default_factory=list)
    scores: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, patches_BPD: Tensor, words_QD: Tensor, top_n: int, sign: int) -> None:
        ids_BPN, scores_BPN = mine_batch(patches_BPD, words_QD, top_n, sign)
        self.ids.append(ids_BPN)
        self.scores.append(scores_BPN)

    def joined(self) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
        return np.concatenate(self.ids), np.concatenate(self.scores)


@dataclass
class _Cosines:
    negative: int = 0
    total: int = 0

    def add(self, patches_BPD: Tensor, words_QD: Tensor) -> None:
        cosines = patches_BPD.flatten(0, 1) @ words_QD.T
        self.negative += int((cosines < 0).sum())
        self.total += cosines.numel()


def measure_features(
    sample: Sample, features: str, progress: Callable[[int], None]
) -> Iterator[Row]:
    """Measure labels from one kind of patch features: both signs, both centres, every n.

    Args:
        sample: the pictures.
        features: one of the options' features.
        progress: called with the number of pictures done since the last call.

    Raises:
        UserError: if fewer than two pictures can be read, or one cannot and must be.
    """
    options = sample.options
    extraction = options.extraction(features).resolved()
    loader, encoder = make_loader(extraction), sample.encoder
    batches = encode_batches(encoder, loader, sample.pictures, extraction, None)
    mean_D = torch.from_numpy(mean_patch(p for _, p in batches if p is not None))
    kinds = [(center, sign) for center in CENTERS for sign in SIGNS]
    whole, mosaic = ({kind: _Mined() for kind in kinds} for _ in range(2))
    cosines = {center: _Cosines() for center in CENTERS}
    few_QD = spread_words(sample.words_QD)
    numbers: list[int] = []
    before: Tensor | None = None
    for batch in loader.batches(sample.pictures, options.batch_size):
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
            cosines[center].add(shown - shift, few_QD)
            for sign in SIGNS:
                top_n = max(options.top_n)
                whole[center, sign].add(shown - shift, sample.words_QD, top_n, sign)
                if len(cut):
                    mosaic[center, sign].add(cut - shift, sample.words_QD, top_n, sign)
    if len(numbers) < 2:
        raise UserError(
            f"{len(numbers)} of the sample's {len(sample.pictures)} pictures can be read; two are "
            "needed: look at --image_folder"
        )
    for center, sign in kinds:
        negative = cosines[center].negative / cosines[center].total
        arrays = (*whole[center, sign].joined(), *mosaic[center, sign].joined())
        for n in options.top_n:
            cut_off = [array[..., :n] for array in arrays]
            yield Row(
                features, sign, center, n, *_measure(sample, numbers, sign, negative, cut_off)
            )


def _measure(
    sample: Sample,
    numbers: list[int],
    sign: int,
    negative: float,
    arrays: list[NDArray[Any]],
) -> tuple[Any, ...]:
    """Everything that a row holds after its n."""
    ids_IPN, scores_IPN, mosaic_ids_IPN, mosaic_scores_IPN = arrays
    num_words = len(sample.words)
    count_Q = np.bincount(np.concatenate(sample.occurrences), minlength=num_words)
    tally = LiftTally(sign, count_Q, sample.occurrences)
    kept_IPN = scores_IPN > 0
    labels_IPN = np.where(kept_IPN, ids_IPN.astype(np.int64), -1)
    for number, labels_PN in zip(numbers, labels_IPN, strict=True):
        tally.add(number, labels_PN)
    chance_IPN = draw_chances(scores_IPN)
    seen = [sample.occurrences[number] for number in numbers]
    place = measure_place(
        mosaic_ids_IPN,
        draw_chances(mosaic_scores_IPN),
        sample.grid,
        seen[:-1],
        seen[1:],
        num_words,
    )
    return (
        tally.measure(sample.words),
        negative,
        agreement(ids_IPN, chance_IPN, sample.grid, num_words),
        place,
        float(kept_IPN.any(-1).mean()),
        _precision(sample.truth, numbers, ids_IPN, scores_IPN),
    )


def _precision(
    truth: KnownTruth | None,
    numbers: list[int],
    ids_IPN: NDArray[np.uint32],
    scores_IPN: NDArray[np.float32],
) -> dict[str, Precision] | None:
    if truth is None:
        return None
    right_IPN = truth.right_SQ[truth.set_IP[numbers][..., None], ids_IPN]
    object_IP = truth.object_IP[numbers]
    kinds = {"object": object_IP, "background": ~object_IP, "all": np.ones_like(object_IP)}
    return {kind: precision(right_IPN, scores_IPN, of_IP) for kind, of_IP in kinds.items()}
