"""Encode and mine the pictures of one shard after the other: what each process of a run does.

A shard holds `shard_size` pictures in the corpus's order and is written in one stroke, so a process
that dies loses the shard in its hands and nothing else. Batches never cross shards: the result does
not depend on how shards are dealt to processes.

Shape letters: I pictures of a shard, B of a batch, P patches, N labels, M patches mined at a time,
Q words, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llava_sea.alignment.label_store import shard_is_done, write_shard
from llava_sea.alignment.mining import mine_top_words
from llava_sea.alignment.mining_bounds import PreparedWords, prepare_words
from llava_sea.data.images import ImageTransform
from llava_sea.errors import UserError, cannot_write
from llava_sea.labels.options import ExtractOptions
from llava_sea.labels.patch_features import PatchEncoder
from llava_sea.labels.pictures import LoadedBatch, Picture, PictureLoader
from llava_sea.labels.word_vectors import WordVectors

KEPT = "Finished shards are whole and kept"

# Patches mined at a time. The CPU keeps Q / 128 maxima of each (0.5 GB at 4M words); a GPU goes
# through 4,096 at a time by itself, and 32 pictures of CLIP or SigLIP should be one call.
_PATCHES_AT_A_TIME = {"cpu": 4096, "cuda": 32_768}


@dataclass(frozen=True)
class Plan:
    """All that a process needs; it travels to the others by pickle."""

    options: ExtractOptions
    pictures: list[Picture]
    vectors: WordVectors
    sign: int
    center_D: NDArray[np.float32] | None
    grid: tuple[int, int]
    devices: tuple[str, ...]
    threads: int

    @property
    def num_shards(self) -> int:
        """The number of shards of the whole corpus."""
        return -(-len(self.pictures) // self.options.shard_size)

    def shard(self, number: int) -> list[Picture]:
        """The pictures of one shard."""
        size = self.options.shard_size
        return self.pictures[number * size : (number + 1) * size]

    def pending(self) -> list[int]:
        """The shards that are not written yet."""
        folder = Path(self.options.output_dir)
        return [n for n in range(self.num_shards) if not shard_is_done(folder, n)]


def load_encoder(options: ExtractOptions, device: str) -> PatchEncoder:
    """Load the vision tower that the options name."""
    dtype = getattr(torch, options.dtype)
    return PatchEncoder.from_pretrained(options.vision_tower, device, dtype)


def make_loader(options: ExtractOptions) -> PictureLoader:
    """Make the loader with the transform that the options name."""
    transform = ImageTransform.from_pretrained(options.vision_tower, options.image_aspect_ratio)
    return PictureLoader(
        options.image_folder, transform, options.on_bad_image, options.loader_threads
    )


def encode_batches(
    encoder: PatchEncoder,
    loader: PictureLoader,
    pictures: list[Picture],
    options: ExtractOptions,
    center_D: NDArray[np.float32] | None,
) -> Iterator[tuple[LoadedBatch, Tensor | None]]:
    """Yield batches of pictures with their patch features ``(B, P, D)``, None if none is left.

    Args:
        encoder: encodes them.
        loader: reads them.
        pictures: which.
        options: features and batch size.
        center_D: subtracted from every patch (``--sea_center``), or None.

    Raises:
        UserError: for a picture that cannot be read or has features that are no finite numbers.
    """
    for batch in loader.batches(pictures, options.batch_size):
        patches_BPD = None
        if batch.pixels_BCHW is not None:
            assert options.sea_features is not None
            patches_BPD = encoder.encode_images(batch.pixels_BCHW, options.sea_features)
            _require_finite(patches_BPD, [pictures[row] for row in batch.rows], options)
            if center_D is not None:
                patches_BPD = patches_BPD - torch.from_numpy(center_D).to(patches_BPD)
        yield batch, patches_BPD


def mine_shards(
    plan: Plan,
    shards: list[int],
    device: str,
    report: Callable[[int], None],
    encoder: PatchEncoder | None = None,
) -> None:
    """Mine and write shards.

    Args:
        plan: the run.
        shards: numbers of the shards to make.
        device: where to work.
        report: called with the number of pictures done since the last call.
        encoder: the encoder, if it is loaded already.

    Raises:
        UserError: for a picture that cannot be read or has features that are no finite numbers, or
            a disk that takes no more.
    """
    encoder = encoder or load_encoder(plan.options, device)
    loader = make_loader(plan.options)
    words = prepare_words(plan.vectors.load(device))
    top_n = plan.options.sea_top_n
    assert top_n is not None
    for number in shards:
        pictures = plan.shard(number)
        shape_IPN = (len(pictures), plan.grid[0] * plan.grid[1], top_n)
        ids_IPN = np.zeros(shape_IPN, np.uint32)
        scores_IPN = np.zeros(shape_IPN, np.float32)
        crc_I = np.zeros(len(pictures), np.uint32)
        skipped: dict[str, str] = {}
        for batch, patches_BPD in encode_batches(
            encoder, loader, pictures, plan.options, plan.center_D
        ):
            if patches_BPD is not None:
                ids_BPN, scores_BPN = mine_batch(patches_BPD, words, top_n, plan.sign)
                ids_IPN[batch.rows, :, : ids_BPN.shape[-1]] = ids_BPN
                scores_IPN[batch.rows, :, : ids_BPN.shape[-1]] = scores_BPN
                crc_I[batch.rows] = batch.crc32s
            skipped |= batch.skipped
            report(len(batch.rows) + len(batch.skipped))
        folder = Path(plan.options.output_dir)
        try:
            write_shard(
                folder, number, [p.image for p in pictures], ids_IPN, scores_IPN, crc_I, skipped
            )
        except OSError as error:
            raise UserError(cannot_write(error, KEPT)) from error


def _require_finite(patches_BPD: Tensor, pictures: list[Picture], options: ExtractOptions) -> None:
    bad_B = ~patches_BPD.isfinite().flatten(1).all(1)
    if bool(bad_B.any()):
        name = pictures[int(bad_B.nonzero()[0])].image
        way_out = "look at the picture and at the vision tower's weights"
        if options.dtype == "float16":
            way_out = "run again with --dtype float32, in another --output_dir"
        raise UserError(
            f"{name}: the vision tower gives features that are not finite numbers in "
            f"{options.dtype}; finished shards are kept. {way_out[0].upper()}{way_out[1:]}"
        )


def mine_batch(
    patches_BPD: Tensor, words_QD: Tensor | PreparedWords, top_n: int, sign: int
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Mine a batch of pictures; labels whose score is not above 0 become (0, 0).

    Args:
        patches_BPD: patch features.
        words_QD: word features, or what `prepare_words` made of them.
        top_n: labels of a patch.
        sign: of the cosine.

    Returns:
        ids uint32 and scores float32, ``(B, P, N)``.
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
