"""What is measured of labels: are they right, local, and in their place? For every kind of label.

A patch draws one of its labels with probability S / sum(S) (eq. 9); scores not above 0 are no
labels. All measures are expected values of such draws, exact, without random numbers.

    local         the chance that two neighbours (side by side) draw the same label, over the same
                  for other patches of their image: 1 for labels that name the whole image
    place lift    how much more often a drawn label is in its own half's caption than in the other
                  half's: 1 for labels that know the image and not the place
    place recall  for a word of one caption alone: the largest chance of any patch of its half to
                  draw it, less the same of the other half, averaged over a half's words, then over
                  halves. Each word of a caption counts the same, however few patches show it, so
                  things count as much as the background that covers most of the image.

Place is tested on mosaics, the left half of one image beside the right half of the next, for which
captions alone are needed; only words that are in one of the two captions count. Caption lift
(`sign.py`) cannot tell the place: an encoder that spreads an object over all patches names the
right words everywhere.

Limits: a half lacks the words that its caption has for the other half, which lowers recall alike
for all labels. Neighbouring mosaics share an image; the standard errors take them as independent.

Shape letters: I images or mosaics, P patches, N labels of a patch, M labels of a half or patches of
a kind, E pairs of neighbours, S sets of true words, Q words, W words of one caption alone, D joint
dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llava_sea.data.images import look_for_images
from llava_sea.data.records import open_records
from llava_sea.errors import UserError
from llava_sea.labels.mine import (
    CorpusImage,
    ImageLoader,
    corpus_images,
    distinct_images,
    encode_batches,
    load_encoder,
    mine_batch,
    own_device,
    spread,
)
from llava_sea.labels.occurrence import Truth, find_occurrences
from llava_sea.labels.options import CENTERS, QualityOptions
from llava_sea.labels.patch_features import PatchEncoder
from llava_sea.labels.prepare import mean_patch
from llava_sea.labels.sign import Floats, LiftMeasure, caption_rates, measure_lift, spread_words
from llava_sea.labels.text_features import TextEncoder, encode_to_disk
from llava_sea.labels.words_file import read_words
from llava_sea.progress import Progress
from llava_sea.ranges import check_range, whole

SIGNS = (1, -1)


@dataclass(frozen=True)
class Precision:
    """Shares of right labels over the labelled patches of a kind; nan if there are none."""

    top1: float  # the best label
    top_n: float  # any kept label
    sampled: float  # the drawn label (eq. 9), its expected value
    labelled: float  # share of the patches that have a label


@dataclass(frozen=True)
class Agreement:
    """Chances that two patches draw the same label; nan where there is no such pair."""

    near: float  # neighbours
    apart: float  # the same image, no neighbours
    local: float  # near / apart


@dataclass(frozen=True)
class Place:
    """Results of the mosaics; errors are standard errors over mosaics (lift), halves (recall)."""

    lift: float
    lift_error: float
    recall: float
    recall_error: float


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


def draw_chances(scores_PN: NDArray[np.floating]) -> Floats:
    """Return each label's chance to be drawn (SEA eq. 9), any leading shape; rows sum to 1 or 0."""
    weight_PN = np.maximum(scores_PN, 0).astype(np.float64)
    total_P1 = weight_PN.sum(-1, keepdims=True)
    return np.divide(weight_PN, total_P1, out=np.zeros_like(weight_PN), where=total_P1 > 0)


def precision(
    right_IPN: NDArray[np.bool_], scores_IPN: NDArray[np.floating], of_IP: NDArray[np.bool_]
) -> Precision:
    """Measure precision over the patches `of_IP`; `right_IPN`: is the label true of its patch?"""
    right_MN, scores_MN = right_IPN[of_IP], scores_IPN[of_IP]
    kept_MN = scores_MN > 0
    count = int(kept_MN.any(-1).sum())
    return Precision(
        _share(float((right_MN & kept_MN)[:, 0].sum()), count),
        _share(float((right_MN & kept_MN).sum()), int(kept_MN.sum())),
        _share(float((right_MN * draw_chances(scores_MN)).sum()), count),
        _share(float(count), len(scores_MN)),
    )


def agreement(ids_IPN: NDArray[np.integer], chance_IPN: Floats, grid: tuple[int, int]) -> Agreement:
    """Measure whether neighbours draw the same labels; chances are from `draw_chances`."""
    number = np.arange(grid[0] * grid[1]).reshape(grid)
    a_E = np.concatenate([number[:, :-1].ravel(), number[:-1].ravel()])
    b_E = np.concatenate([number[:, 1:].ravel(), number[1:].ravel()])
    near, near_pairs, whole, whole_pairs = 0.0, 0, 0.0, 0
    for ids_PN, chance_PN in zip(ids_IPN, chance_IPN, strict=True):
        labelled_P = chance_PN.any(-1)
        count = int(labelled_P.sum())
        same_ENN = ids_PN[a_E][:, :, None] == ids_PN[b_E][:, None, :]
        # For each pair: sum over equal labels of chance times chance.
        near += float(np.einsum("enm,en,em->", same_ENN, chance_PN[a_E], chance_PN[b_E]))
        near_pairs += int((labelled_P[a_E] & labelled_P[b_E]).sum())
        _, position = np.unique(ids_PN, return_inverse=True)
        sum_Q = np.bincount(position.ravel(), chance_PN.ravel())
        # Unordered pairs of different patches: the square of the sum less the patches' own.
        whole += float((sum_Q**2).sum() - (chance_PN**2).sum()) / 2
        whole_pairs += count * (count - 1) // 2
    beside, apart = _share(near, near_pairs), _share(whole - near, whole_pairs - near_pairs)
    return Agreement(beside, apart, beside / apart if apart > 0 else math.nan)


def make_mosaics(pixels_BCHW: Tensor, grid: tuple[int, int]) -> Tensor:
    """Put the left half of each image beside the right half of the next; one fewer comes back.

    The cut runs between two columns of the grid's patches.
    """
    cut = grid[1] // 2 * (pixels_BCHW.shape[-1] // grid[1])
    return torch.cat([pixels_BCHW[:-1, ..., :cut], pixels_BCHW[1:, ..., cut:]], -1)


def measure_place(
    ids_IPN: NDArray[np.integer],
    chance_IPN: Floats,
    grid: tuple[int, int],
    left: Sequence[NDArray[np.int64]],
    right: Sequence[NDArray[np.int64]],
) -> Place:
    """Compare the labels of mosaics with their halves' captions.

    `left` and `right` are the ids of the words in each half's caption, for each mosaic; chances are
    from `draw_chances`. nan where no caption has a word to itself, or nothing was drawn.
    """
    is_left_P = np.arange(ids_IPN.shape[1]) % grid[1] < grid[1] // 2
    own_I, other_I = np.zeros(len(ids_IPN)), np.zeros(len(ids_IPN))
    recalls: list[float] = []
    for number, (ids_PN, chance_PN) in enumerate(zip(ids_IPN, chance_IPN, strict=True)):
        halves = [(ids_PN[of].ravel(), chance_PN[of].ravel()) for of in (is_left_P, ~is_left_P)]
        captions = (left[number], right[number])
        for own, other in ((0, 1), (1, 0)):
            words_W = np.setdiff1d(captions[own], captions[other])
            if not len(words_W):
                continue
            own_WM, other_WM = (
                (ids_M == words_W[:, None]) * chance_M
                for ids_M, chance_M in (halves[own], halves[other])
            )
            own_I[number] += own_WM.sum()
            other_I[number] += other_WM.sum()
            recalls.append(float((own_WM.max(1) - other_WM.max(1)).mean()))
    recall = float(np.mean(recalls)) if recalls else math.nan
    return Place(*_ratio(own_I, other_I), recall, _standard_error(np.array(recalls)))


def _ratio(own_I: Floats, other_I: Floats) -> tuple[float, float]:
    """The ratio of two sums and its standard error (delta method)."""
    own, other = float(own_I.sum()), float(other_I.sum())
    if other == 0:
        return (math.inf if own else math.nan), math.nan
    ratio = own / other
    return ratio, _standard_error(own_I - ratio * other_I) * len(own_I) / other


def _standard_error(values: Floats) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def _share(part: float, whole: int) -> float:
    return part / whole if whole else math.nan


def measure_quality(options: QualityOptions) -> list[Row]:
    """Measure every kind of label that the options name: features x centre x sign x n."""
    words = [entry.word for entry in read_words(options.words)]
    why = f"half of {options.words}, which holds {len(words)} words; more say nothing of a patch"
    check_range("top_n", max(options.top_n), whole(1, len(words) // 2), why)
    images, captions = distinct_images(open_records(options.data_files))
    look_for_images(corpus_images(options), images)
    captioned = [pair for pair in zip(images, captions, strict=True) if pair[1].strip()]
    chosen = spread(captioned, options.num_images)
    if len(chosen) < 2:
        raise UserError(
            f"--data_path {options.data_path}: {len(chosen)} of its images have a caption; "
            "quality is measured by captions, and two are needed"
        )
    encoder = load_encoder(options, own_device(options.device))
    height, width = ImageLoader(options).transform.geometry()["resolution"]
    grid = encoder.grid_of(height, width)
    if grid[1] < 2:
        raise UserError(f"a grid of {grid[0]} x {grid[1]} patches has no left and right half")
    sample = [image for image, _ in chosen]
    truth = None if options.truth is None else _open_truth(options.truth, sample, words, grid)
    texts = TextEncoder.from_pretrained(options.vision_tower, encoder.model)
    occurrences = find_occurrences([caption for _, caption in chosen], words)
    rows: list[Row] = []
    with TemporaryDirectory() as folder:  # the words' vectors: 12 GB at 4 million words
        vectors = encode_to_disk(Path(folder) / "words.npy", texts, words, options.word_template)
        words_QD = vectors.load(encoder.model.device)
        made = Sample(options, encoder, sample, words, words_QD, occurrences, grid, truth)
        for name in encoder.distinct(options.sea_features):
            with Progress(f"{name}: images", len(sample)) as progress:
                rows += measure_features(made, name, progress.update)
    return rows


def _open_truth(
    path: str, images: list[CorpusImage], words: list[str], grid: tuple[int, int]
) -> KnownTruth:
    patches = range(grid[0] * grid[1])
    truth = Truth(path, "--truth")
    truth.check_grid(grid)
    for image in images:
        truth.check(image.image, len(patches))
    id_of = {word: number for number, word in enumerate(words)}
    sets: dict[frozenset[str], int] = {}
    set_IP = np.array(
        [[sets.setdefault(truth.words(p.image, i), len(sets)) for i in patches] for p in images]
    )
    right_SQ = np.zeros((len(sets), len(words)), bool)
    for true_words, number in sets.items():
        right_SQ[number, [id_of[word] for word in true_words if word in id_of]] = True
    object_IP = np.array([[truth.is_object(p.image, i) for i in patches] for p in images])
    return KnownTruth(right_SQ, set_IP, object_IP)


def measure_features(
    sample: Sample, features: str, progress: Callable[[int], object]
) -> Iterator[Row]:
    """Measure labels from one kind of patch features: both signs, both centres, every n.

    Images and their mosaics are mined once for each kind with the largest n; a smaller n is the
    beginning of the same list. `progress` gets the number of images done since its last call.
    """
    options, encoder, loader = sample.options, sample.encoder, ImageLoader(sample.options)
    batches = encode_batches(encoder, loader, sample.images, features)
    mean_D = torch.from_numpy(mean_patch(p for _, p in batches if p is not None))
    kinds = [(center, sign) for center in CENTERS for sign in SIGNS]
    # For each kind the ids and scores of the images and of their mosaics, batch by batch.
    mined: dict[tuple[str, int], list[Any]] = {kind: [] for kind in kinds}
    negative: dict[str, list[float]] = {center: [] for center in CENTERS}
    few_QD = spread_words(sample.words_QD)
    numbers: list[int] = []
    before: Tensor | None = None
    for batch in loader.batches(sample.images):
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
    drawn_IPN, grid = draw_chances(mosaic_scores_IPN), sample.grid
    return (
        measure_lift(sign, labels_IPN, *rates, sample.words),
        agreement(ids_IPN, draw_chances(scores_IPN), grid),
        measure_place(mosaic_ids_IPN, drawn_IPN, grid, seen[:-1], seen[1:]),
        float(kept_IPN.any(-1).mean()),
        found,
    )
