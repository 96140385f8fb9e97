"""Which sign does this extraction take: the forced one, or the one measured on its own pictures?

A measured sign is kept in the work folder, so that a resumed run goes on with the same one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from llava_sea.files import write_atomically
from llava_sea.labels.extraction_state import read_state
from llava_sea.labels.mine_shards import encode_batches, make_loader
from llava_sea.labels.options import ExtractOptions
from llava_sea.labels.patch_features import PatchEncoder
from llava_sea.labels.pictures import Picture, spread
from llava_sea.labels.sign import choose_sign, format_table, measure_sign
from llava_sea.labels.word_vectors import WordVectors

logger = logging.getLogger(__name__)


class SignChoice(NamedTuple):
    """The sign, and the measurement if there was one."""

    sign: int
    measured: dict[str, Any] | None


def settle_sign(
    folder: Path,
    options: ExtractOptions,
    encoder: PatchEncoder,
    pictures: list[Picture],
    captions: list[str],
    words: list[str],
    vectors: WordVectors,
    center_D: NDArray[np.float32] | None,
) -> SignChoice:
    """Return the forced sign, the one that an earlier run measured, or measure it.

    The sample is spread evenly over the pictures that have a caption, and measured as the corpus is
    mined: with `center_D` subtracted from every patch.

    Raises:
        UserError: if neither sign wins, with the numbers.
    """
    assert options.sea_sign is not None and options.sea_top_n is not None
    if options.sea_sign != "auto":
        logger.info("sign %+d (forced)", int(options.sea_sign))
        return SignChoice(int(options.sea_sign), None)
    path = folder / "sign.json"
    if path.is_file():
        kept = read_state(path, "sign", "measured")
        logger.info("sign %+d (measured before)", kept["sign"])
        return SignChoice(kept["sign"], kept["measured"])
    captioned = [i for i, caption in enumerate(captions) if caption.strip()]
    chosen = spread(captioned, options.sign_sample)
    logger.info("measuring the sign on %d pictures", len(chosen))
    report = measure_sign(
        _sample(options, encoder, [pictures[i] for i in chosen], center_D),
        [captions[i] for i in chosen],
        words,
        vectors.load(encoder.model.device),
        options.sea_top_n,
    )
    sign = choose_sign(report)
    logger.info("%s\nsign %+d (measured)", format_table(report), sign)
    choice = SignChoice(sign, report.to_dict())
    write_atomically(path, json.dumps(choice._asdict()).encode())
    return choice


def _sample(
    options: ExtractOptions,
    encoder: PatchEncoder,
    pictures: list[Picture],
    center_D: NDArray[np.float32] | None,
) -> Iterator[tuple[list[int], Tensor]]:
    loader = make_loader(options)
    for batch, patches_BPD in encode_batches(encoder, loader, pictures, options, center_D):
        if patches_BPD is not None:
            yield batch.rows, patches_BPD
