"""From a corpus's images to pixels, to patch features, to the labels of one shard after the other.

An image is named as in its record's "image"; it stands at its first appearance in the data. Threads
decode ahead of the encoder. A shard holds `shard_size` images in the corpus's order and is written
in one stroke, so a process that dies loses the shard in its hands and nothing else. Ranks claim
shards as they get to them. Batches never cross shards: the result does not depend on who mines one.

Shape letters: I images of a shard, B of a batch, P patches, N labels, M patches mined at a time,
Q words, D joint dimension.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llava_sea.alignment.label_store import finished_shards, write_shard
from llava_sea.alignment.mining import mine_top_words
from llava_sea.alignment.mining_bounds import PreparedWords, prepare_words
from llava_sea.data.image_source import ImageSource, open_images
from llava_sea.data.images import ImageTransform, load_image
from llava_sea.data.records import Record, open_records, split_weight
from llava_sea.errors import UserError
from llava_sea.labels.claims import Claims
from llava_sea.labels.occurrence import CaptionWords
from llava_sea.labels.options import CorpusOptions, ExtractOptions
from llava_sea.labels.patch_features import PatchEncoder
from llava_sea.labels.text_features import WordVectors
from llava_sea.labels.written import WrittenWords
from llava_sea.processes import Processes

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Loaded = tuple[Tensor, int, tuple[int, int]] | str
"""An image's pixels, its file's CRC-32, its width and height; or why there are none."""

# Patches mined at a time. The CPU keeps Q / 128 maxima of each (0.5 GB at 4M words); a GPU goes
# through 4,096 at a time by itself, and 32 images of CLIP or SigLIP should be one call.
_PATCHES_AT_A_TIME = {"cpu": 4096, "cuda": 32_768}


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
    sizes: Sequence[tuple[int, int]] = ()
    """The images' widths and heights."""


def distinct_images(records: Iterable[Record]) -> tuple[list[CorpusImage], list[str]]:
    """List the corpus's images once each, and the text of the answers in the same record."""
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


def corpus_images(options: CorpusOptions) -> str | ImageSource:
    """Return where a corpus's images lie; parquet files, which may hold them, are opened."""
    every = options.image_folder is None  # do all of them hold their images?
    held = [path for path in options.data_files if every or _may_hold_images(path)]
    return open_images(options.image_folder, open_records(held) if held else [])


def _may_hold_images(path: str) -> bool:
    return split_weight(path)[0].suffix.lower() == ".parquet"


class ImageLoader:
    """Reads images as the encoder's input."""

    def __init__(self, options: CorpusOptions) -> None:
        self.options = options
        self.source = corpus_images(options)
        self.transform = ImageTransform.from_pretrained(
            options.vision_tower, options.image_aspect_ratio
        )

    def batches(self, images: Sequence[CorpusImage]) -> Iterator[LoadedBatch]:
        """Yield the images in order, a batch at a time; the next two batches are loaded ahead."""
        size = self.options.batch_size
        ahead: deque[dict[int, Future[Loaded]]] = deque()
        pool = ThreadPoolExecutor(self.options.loader_threads)
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
            loaded, crc32 = load_image(self.source, image.image, image.record_id)
            return self.transform(loaded), crc32, loaded.size
        except UserError as error:
            if self.options.on_bad_image == "skip":
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
        [item[2] for item in read.values()],
    )


def own_device(device: str, ranks: Processes | None = None) -> str:
    """Return the device of this process: a GPU of its own, or its share of the CPU's threads."""
    ranks = ranks or Processes()
    count = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
    if device == "cuda" and not count:
        raise UserError("--device cuda: no GPU is visible; use --device cpu")
    if count > 1 and ranks.count == 1:
        logger.warning("one of %d GPUs is used: scripts/extract_labels.sh uses all", count)
    if count:
        return f"cuda:{ranks.local_rank % count}"
    torch.set_num_threads(max(1, torch.get_num_threads() // ranks.local_count))
    return "cpu"


def load_encoder(options: CorpusOptions, device: str) -> PatchEncoder:
    """Load the vision tower that the options name."""
    dtype = getattr(torch, options.dtype)
    return PatchEncoder.from_pretrained(options.vision_tower, device, dtype)


def encode_batches(
    encoder: PatchEncoder,
    loader: ImageLoader,
    images: Sequence[CorpusImage],
    features: str,
    center_D: NDArray[np.float32] | None = None,
) -> Iterator[tuple[LoadedBatch, Tensor | None]]:
    """Yield batches of images with their patch features ``(B, P, D)``, None if none is left.

    `center_D` (``--sea_center``) is subtracted from every patch.
    """
    for batch in loader.batches(images):
        patches_BPD = None
        if batch.pixels_BCHW is not None:
            patches_BPD = encoder.encode_images(batch.pixels_BCHW, features)
            names = [images[row].image for row in batch.rows]
            _require_finite(patches_BPD, names, loader.options.dtype)
            if center_D is not None:
                patches_BPD = patches_BPD - torch.from_numpy(center_D).to(patches_BPD)
        yield batch, patches_BPD


def _require_finite(patches_BPD: Tensor, names: list[str], dtype: str) -> None:
    bad_B = ~patches_BPD.isfinite().flatten(1).all(1)
    if bool(bad_B.any()):
        way_out = "Look at the image and at the vision tower's weights"
        if dtype == "float16":
            way_out = "Run again with --dtype float32, in another --output_dir"
        raise UserError(
            f"{names[int(bad_B.nonzero()[0])]}: the vision tower's features are not finite numbers "
            f"in {dtype}; finished shards are kept. {way_out}"
        )


@dataclass(frozen=True)
class Plan:
    """All that a rank needs to know."""

    options: ExtractOptions
    images: list[CorpusImage]
    vectors: WordVectors
    sign: int
    center_D: NDArray[np.float32] | None
    grid: tuple[int, int]
    caption_words: CaptionWords | None = None
    """With ``--sea_caption_share`` the words of each image's caption."""
    written: WrittenWords | None = None
    """With ``--sea_ocr`` the words that are written in each image."""

    @property
    def num_shards(self) -> int:
        """The number of shards of the whole corpus."""
        return -(-len(self.images) // self.options.shard_size)

    def shard(self, number: int) -> list[CorpusImage]:
        """The images of one shard."""
        size = self.options.shard_size
        return self.images[number * size : (number + 1) * size]

    def pending(self) -> list[int]:
        """The shards that are not written yet."""
        return sorted({*range(self.num_shards)} - finished_shards(Path(self.options.output_dir)))


def claim_shards(
    plan: Plan, claims: Claims, first: int, elsewhere: Callable[[int], object]
) -> Iterator[int]:
    """Yield shards as this process gets to them, from `first` on, until all are written.

    `elsewhere` gets the number of images that others have done since its last call.
    """
    left, last, mined = plan.pending(), first - 1, set[int]()
    while left:
        # Each goes on from where it was, so that two seldom want the same one.
        ahead = sorted(left, key=lambda number: number <= last)
        taken = next((n for n in ahead if claims.take(f"shard-{n:05d}")), None)
        before, left = left, plan.pending()  # its former holder may have written it just before
        elsewhere(sum(len(plan.shard(n)) for n in {*before} - {*left} - mined))
        if taken is None:
            if left:
                claims.pause()
            continue
        if taken in left:
            last = taken
            mined.add(taken)
            yield taken
        claims.release()


def mine_shards(
    plan: Plan, shards: Iterable[int], encoder: PatchEncoder, report: Callable[[int], object]
) -> None:
    """Mine and write shards; `report` gets the number of images done since its last call."""
    options = plan.options
    assert options.sea_features is not None and options.sea_top_n is not None
    loader = ImageLoader(options)
    geometry = loader.transform.geometry()
    words = prepare_words(plan.vectors.load(encoder.model.device))
    for number in shards:
        images = plan.shard(number)
        shape_IPN = (len(images), plan.grid[0] * plan.grid[1], options.sea_top_n)
        ids_IPN = np.zeros(shape_IPN, np.uint32)
        scores_IPN = np.zeros(shape_IPN, np.float32)
        crc_I = np.zeros(len(images), np.uint32)
        skipped: dict[str, str] = {}
        first = number * options.shard_size
        for batch, patches_BPD in encode_batches(
            encoder, loader, images, options.sea_features, plan.center_D
        ):
            if patches_BPD is not None:
                found = mine_batch(patches_BPD, words, options.sea_top_n, plan.sign)
                if plan.caption_words is not None and options.sea_caption_share:
                    own = [plan.caption_words[first + row] for row in batch.rows]
                    prefer_captions(
                        *found,
                        patches_BPD,
                        words.words_QD,
                        own,
                        plan.sign,
                        options.sea_caption_share,
                    )
                if plan.written is not None:
                    for row, size, *labels in zip(batch.rows, batch.sizes, *found, strict=True):
                        out = plan.written.label(first + row, size, geometry, plan.grid, *labels)
                        _tell_outside(images[row].image, out, size)
                ids_IPN[batch.rows], scores_IPN[batch.rows] = found
                crc_I[batch.rows] = batch.crc32s
            skipped |= batch.skipped
            report(len(batch.rows) + len(batch.skipped))
        names = [image.image for image in images]
        write_shard(Path(options.output_dir), number, names, ids_IPN, scores_IPN, crc_I, skipped)


def _tell_outside(image: str, box: Sequence[float], size: tuple[int, int]) -> None:
    """Warn of a written word that its image does not show: once, all may be of another size."""
    if box and not _told:
        _told.append(image)
        logger.warning(
            "--sea_ocr: image %r has %d x %d pixels and a word with the box %s, which it does not "
            "show and no patch gets; boxes must be of the image as it is, upright, in its pixels "
            "or in shares of it (told once)",
            *(image, *size, [round(number, 3) for number in box]),
        )


_told: list[str] = []


def mine_batch(
    patches_BPD: Tensor, words_QD: Tensor | PreparedWords, top_n: int, sign: int
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Mine a batch of images: ids and scores ``(B, P, N)``.

    Labels whose score is not above 0 become (0, 0).
    """
    flat_MD = patches_BPD.flatten(0, 1)
    step = _PATCHES_AT_A_TIME[flat_MD.device.type]
    found = [mine_top_words(part_MD, words_QD, top_n, sign=sign) for part_MD in flat_MD.split(step)]
    ids_MN = torch.cat([ids for ids, _ in found])
    scores_MN = torch.cat([scores for _, scores in found])
    kept_MN = scores_MN > 0
    shape = (*patches_BPD.shape[:2], -1)
    ids_BPN = torch.where(kept_MN, ids_MN, 0).view(shape).cpu().numpy().astype(np.uint32)
    return ids_BPN, torch.where(kept_MN, scores_MN, 0.0).view(shape).cpu().numpy()


def prefer_captions(
    ids_BPN: NDArray[np.uint32],
    scores_BPN: NDArray[np.float32],
    patches_BPD: Tensor,
    words_QD: Tensor,
    captions: Sequence[NDArray[np.int64]],
    sign: int,
    share: float,
) -> None:
    """Make a word of its image's caption a patch's only label, where it scores nearly as high.

    Words that score 0 or less are no labels. Ours, not the paper's: the caption knows what is in
    the image, the encoder where. In place.

    Args:
        ids_BPN: mined labels, best first.
        scores_BPN: their scores.
        patches_BPD: the patches that they were mined for.
        words_QD: the word list's features.
        captions: for each image the ids of the words in its caption.
        sign: as in `mine_top_words`.
        share: of the best label's score that the caption's best word must reach.
    """
    for image, ids_K in enumerate(captions):
        if not len(ids_K):
            continue
        words_KD = words_QD[torch.from_numpy(ids_K).to(words_QD.device)].double()
        scores_PK = sign * (patches_BPD[image].double() @ words_KD.T)
        best_P, place_P = (found.cpu().numpy() for found in scores_PK.max(1))
        taken_P = (best_P > 0) & (best_P >= share * scores_BPN[image, :, 0])
        ids_BPN[image, taken_P], scores_BPN[image, taken_P] = 0, 0
        ids_BPN[image, taken_P, 0] = ids_K[place_P[taken_P]]
        scores_BPN[image, taken_P, 0] = best_P[taken_P]
