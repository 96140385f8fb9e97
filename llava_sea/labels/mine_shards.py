"""The work of a rank: encode and mine the images of one shard after the other.

A shard holds `shard_size` images in the corpus's order and is written in one stroke, so a process
that dies loses the shard in its hands and nothing else. Batches never cross shards: the result does
not depend on how shards are dealt to ranks.

Shape letters: I images of a shard, B of a batch, P patches, N labels, M patches mined at a time,
Q words, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llava_sea.alignment.label_store import shard_is_done, write_shard
from llava_sea.alignment.mining import mine_top_words
from llava_sea.alignment.mining_bounds import PreparedWords, prepare_words
from llava_sea.errors import UserError
from llava_sea.labels.images import CorpusImage, ImageLoader, LoadedBatch
from llava_sea.labels.options import CorpusOptions, ExtractOptions
from llava_sea.labels.patch_features import PatchEncoder
from llava_sea.labels.text_features import WordVectors

# Patches mined at a time. The CPU keeps Q / 128 maxima of each (0.5 GB at 4M words); a GPU goes
# through 4,096 at a time by itself, and 32 images of CLIP or SigLIP should be one call.
_PATCHES_AT_A_TIME = {"cpu": 4096, "cuda": 32_768}


@dataclass(frozen=True)
class Plan:
    """All that a rank needs to know; the first sends it to the others."""

    options: ExtractOptions
    images: list[CorpusImage]
    vectors: WordVectors
    sign: int
    center_D: NDArray[np.float32] | None
    grid: tuple[int, int]

    @property
    def top_n(self) -> int:
        """Words kept for a patch."""
        assert self.options.sea_top_n is not None
        return self.options.sea_top_n

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
        folder = Path(self.options.output_dir)
        return [n for n in range(self.num_shards) if not shard_is_done(folder, n)]


def load_encoder(options: CorpusOptions, device: str) -> PatchEncoder:
    """Load the vision tower that the options name."""
    dtype = getattr(torch, options.dtype)
    return PatchEncoder.from_pretrained(options.vision_tower, device, dtype)


def encode_batches(
    encoder: PatchEncoder,
    loader: ImageLoader,
    images: Sequence[CorpusImage],
    options: CorpusOptions,
    features: str,
    center_D: NDArray[np.float32] | None = None,
) -> Iterator[tuple[LoadedBatch, Tensor | None]]:
    """Yield batches of images with their patch features ``(B, P, D)``, None if none is left.

    `center_D` (``--sea_center``) is subtracted from every patch.

    Raises:
        UserError: for an image that cannot be read or has features that are no finite numbers.
    """
    for batch in loader.batches(images, options.batch_size):
        patches_BPD = None
        if batch.pixels_BCHW is not None:
            patches_BPD = encoder.encode_images(batch.pixels_BCHW, features)
            _require_finite(patches_BPD, [images[row].image for row in batch.rows], options.dtype)
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


def mine_shards(
    plan: Plan, shards: Sequence[int], encoder: PatchEncoder, report: Callable[[int], object]
) -> None:
    """Mine and write shards.

    `report` is called with the number of images done since the last call.

    Raises:
        UserError: for an image that cannot be read or has features that are no finite numbers.
        OSError: if the disk takes no more.
    """
    options = plan.options
    assert options.sea_features is not None
    loader = ImageLoader.of(options)
    words = prepare_words(plan.vectors.load(encoder.model.device))
    for number in shards:
        images = plan.shard(number)
        shape_IPN = (len(images), plan.grid[0] * plan.grid[1], plan.top_n)
        ids_IPN = np.zeros(shape_IPN, np.uint32)
        scores_IPN = np.zeros(shape_IPN, np.float32)
        crc_I = np.zeros(len(images), np.uint32)
        skipped: dict[str, str] = {}
        for batch, patches_BPD in encode_batches(
            encoder, loader, images, options, options.sea_features, plan.center_D
        ):
            if patches_BPD is not None:
                ids_BPN, scores_BPN = mine_batch(patches_BPD, words, plan.top_n, plan.sign)
                ids_IPN[batch.rows, :, : ids_BPN.shape[-1]] = ids_BPN
                scores_IPN[batch.rows, :, : ids_BPN.shape[-1]] = scores_BPN
                crc_I[batch.rows] = batch.crc32s
            skipped |= batch.skipped
            report(len(batch.rows) + len(batch.skipped))
        folder = Path(options.output_dir)
        names = [image.image for image in images]
        write_shard(folder, number, names, ids_IPN, scores_IPN, crc_I, skipped)


def mine_batch(
    patches_BPD: Tensor, words_QD: Tensor | PreparedWords, top_n: int, sign: int
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Mine a batch of images; labels whose score is not above 0 become (0, 0).

    Returns:
        Ids and scores ``(B, P, N)``.
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
