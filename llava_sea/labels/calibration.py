"""The mean patch and the sign, measured once on a sample of the corpus before it is mined.

The mean patch (``--sea_center corpus``) is subtracted from every patch. Some words score high with
every patch: hubs. Less the mean patch, a score is ``v . t - mean . t``: the word's score less its
mean score over the corpus's patches, so a hub has nothing left where it is as high as anywhere.
Ranks change, "scores not above 0 are dropped" begins to mean something (without it nearly all
cosines of a top list are above 0), and the weights of eq. 9 are no longer nearly equal. The
difference is not made length 1 again: that would undo the equality above.

Both are kept, so that a resumed extraction has the same ones: ``center.npy`` in the folder of the
labels, the sign in its ``work/`` until it stands in the manifest.

Shape letters: B images of a batch, P patches, D joint dimension.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from llava_sea.errors import UserError
from llava_sea.files import write_atomically
from llava_sea.labels.mine import CorpusImage, ImageLoader, encode_batches, spread
from llava_sea.labels.options import ExtractOptions
from llava_sea.labels.patch_features import PatchEncoder
from llava_sea.labels.sign import choose_sign, finite, format_table, measure_sign
from llava_sea.labels.state import read_state
from llava_sea.labels.text_features import WordVectors

logger = logging.getLogger(__name__)


def mean_patch(batches: Iterable[Tensor]) -> NDArray[np.float32]:
    """Return the mean of all patches of batches ``(B, P, D)``, which are not centred.

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
            "--sea_center corpus: none of the sample's images can be read; a larger "
            "--sign_sample may help, --sea_center none does without"
        )
    return (total / count).astype(np.float32)


def find_center(
    output: Path, options: ExtractOptions, encoder: PatchEncoder, images: list[CorpusImage]
) -> NDArray[np.float32] | None:
    """Return the vector to subtract: None, an earlier run's, or a new one.

    Raises:
        UserError: if no image can be read, or the kept vector is damaged.
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
    assert options.sea_features is not None
    sample = spread(images, options.sign_sample)
    logger.info("the mean patch of %d images", len(sample))
    batches = encode_batches(encoder, ImageLoader(options), sample, options.sea_features)
    center_D = mean_patch(patches for _, patches in batches if patches is not None)
    data = io.BytesIO()
    np.save(data, center_D)
    write_atomically(path, data.getvalue())
    return center_D


def find_sign(
    work: Path,
    options: ExtractOptions,
    encoder: PatchEncoder,
    images: list[CorpusImage],
    captions: list[str],
    words: list[str],
    vectors: WordVectors,
    center_D: NDArray[np.float32] | None,
) -> tuple[int, dict[str, Any] | None]:
    """Return the forced sign, an earlier run's, or a new one, with its measurement.

    The sample is spread evenly over the images that have a caption, and measured as the corpus is
    mined: with `center_D` subtracted from every patch.

    Raises:
        UserError: if neither sign wins, with the numbers.
    """
    assert options.sea_sign is not None and options.sea_features is not None
    assert options.sea_top_n is not None
    if options.sea_sign != "auto":
        logger.info("sign %+d (forced)", int(options.sea_sign))
        return int(options.sea_sign), None
    path = work / "sign.json"
    if path.is_file():
        kept = read_state(path, "sign", "measured")
        logger.info("sign %+d (measured before)", kept["sign"])
        return kept["sign"], kept["measured"]
    chosen = spread([i for i, text in enumerate(captions) if text.strip()], options.sign_sample)
    logger.info("measuring the sign on %d images", len(chosen))
    sample = [images[i] for i in chosen]
    batches = encode_batches(encoder, ImageLoader(options), sample, options.sea_features, center_D)
    report = measure_sign(
        ((batch.rows, patches) for batch, patches in batches if patches is not None),
        [captions[i] for i in chosen],
        words,
        vectors.load(encoder.model.device),
        options.sea_top_n,
    )
    sign, measured = choose_sign(report), finite(asdict(report))
    logger.info("%s\nsign %+d (measured)", format_table(report), sign)
    write_atomically(path, json.dumps({"sign": sign, "measured": measured}).encode())
    return sign, measured
