"""The mean patch of a corpus, subtracted from every patch with ``--sea_center corpus``.

Some words score high with every patch: hubs. Less the mean patch, a score is ``v . t - mean . t``:
the word's score less its mean score over the corpus's patches, so a hub has nothing left where it
is as high as anywhere. Ranks change, "scores not above 0 are dropped" begins to mean something
(without it nearly all cosines of a top list are above 0), and the weights of eq. 9 are no longer
nearly equal. The difference is not made length 1 again: that would undo the equality above.

The mean is taken once, over a sample spread evenly over the corpus, and kept as ``center.npy`` in
the folder of the labels, so that a continued extraction goes on with the same vector.

Limits: one vector for a corpus; a picture's own mean is not looked at.

Shape letters: B pictures of a batch, P patches, D joint dimension.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from llava_sea.errors import UserError
from llava_sea.files import write_atomically
from llava_sea.labels.mine_shards import encode_batches, make_loader
from llava_sea.labels.options import ExtractOptions
from llava_sea.labels.patch_features import PatchEncoder
from llava_sea.labels.pictures import Picture, spread

logger = logging.getLogger(__name__)


def mean_patch(batches: Iterable[Tensor]) -> NDArray[np.float32]:
    """Return the mean of all patches.

    Args:
        batches: patch features ``(B, P, D)``, not centred.

    Raises:
        UserError: if there is no patch.
    """
    total, count = None, 0
    for patches_BPD in batches:
        part_D = patches_BPD.double().sum((0, 1)).cpu().numpy()
        total = part_D if total is None else total + part_D
        count += patches_BPD.shape[0] * patches_BPD.shape[1]
    if total is None:
        raise UserError(
            "--sea_center corpus: none of the sample's pictures can be read; a larger "
            "--sign_sample may help, --sea_center none does without"
        )
    return (total / count).astype(np.float32)


def settle_center(
    output: Path, options: ExtractOptions, encoder: PatchEncoder, pictures: list[Picture]
) -> NDArray[np.float32] | None:
    """Return what an extraction subtracts: nothing, an earlier run's vector, or a new one.

    Args:
        output: the folder of the labels.
        options: the extraction.
        encoder: encodes the sample.
        pictures: the corpus.

    Raises:
        UserError: if no picture can be read, or the kept vector is damaged.
    """
    if options.sea_center == "none":
        return None
    path = output / "center.npy"
    if path.is_file():
        try:
            return np.load(path)
        except (ValueError, EOFError) as error:
            raise UserError(
                f"{path}: the mean patch is damaged ({error}); extract the labels again into a new "
                "folder"
            ) from None
    sample = spread(pictures, options.sign_sample)
    logger.info("the mean patch of %d pictures", len(sample))
    batches = encode_batches(encoder, make_loader(options), sample, options, None)
    center_D = mean_patch(patches for _, patches in batches if patches is not None)
    data = io.BytesIO()
    np.save(data, center_D)
    write_atomically(path, data.getvalue())
    return center_D
