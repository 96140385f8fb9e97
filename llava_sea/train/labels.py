"""Open a label store for training and refuse one that does not fit the run, field by field."""

from __future__ import annotations

import logging

from torch import nn

from llava_sea.alignment import LabelStore
from llava_sea.data.images import ImageTransform, view
from llava_sea.errors import UserError
from llava_sea.labels.patch_features import vision_fingerprint
from llava_sea.model.projector_io import gathered
from llava_sea.presets import LABEL_PRESETS
from llava_sea.ranges import check_range, whole
from llava_sea.train.arguments import SeaArguments

logger = logging.getLogger(__name__)


def open_labels(
    sea: SeaArguments,
    tower: nn.Module,
    transform: ImageTransform,
    grid: tuple[int, int],
) -> LabelStore:
    """Open ``--sea_labels`` and check it against the run.

    Raises:
        UserError: if the store is unfinished, or was mined with another geometry, encoder, grid
            or preset; the message names the field and both values. If the window is too large.
    """
    why = f"a side of --vision_tower's {grid[0]} x {grid[1]} patches"
    check_range("sea_window", sea.sea_window, whole(1, max(grid)), why)
    store = LabelStore(str(sea.sea_labels))
    where = f"--sea_labels {sea.sea_labels}"
    mined, now = store.manifest["geometry"], transform.geometry()
    differing = [f for f in now if mined.get(f) != now[f]]
    # Another encoder may have other pixels, as long as both see the same part of the image.
    if differing and not (sea.sea_transfer and view(mined) == view(now)):
        details = "; ".join(f"{f}: {mined.get(f)!r} there, {now[f]!r} here" for f in differing)
        raise UserError(
            f"{where}: the images were transformed differently when they were labelled "
            f"({details}), so its labels belong to other pixels. Extract them again with this "
            "run's --image_aspect_ratio and --vision_tower"
        )
    patch_embedding = next(m for m in tower.modules() if isinstance(m, nn.Conv2d))
    with gathered(*patch_embedding.parameters()):
        fingerprint = vision_fingerprint(patch_embedding.weight, tower.config)
    same_encoder = fingerprint == store.manifest["encoder_fingerprint"]
    if not same_encoder and not sea.sea_transfer:
        raise UserError(
            f"{where}: mined with another encoder ({store.manifest['encoder']}) than "
            "--vision_tower. Extract labels with this one, or pass --sea_transfer True to train "
            "it on that one's labels"
        )
    if not same_encoder:
        logger.info(
            "labels of another encoder: those of its %d x %d patches are resampled to %d x %d by "
            "overlap",
            *store.grid,
            *grid,
        )
    for flag, value in LABEL_PRESETS.get(sea.sea_preset or "", {}).items():
        field = flag.removeprefix("sea_")
        found = store.manifest.get(field, "none")  # a store written by hand may lack it
        if value != "auto" and str(found) != str(value):
            raise UserError(
                f"{where}: mined with {field} {found}, --sea_preset {sea.sea_preset} wants {value}"
            )
    logger.info(
        "labels of %d images, features %s, sign %+d, top %d, from %s",
        store.num_images,
        store.manifest["features"],
        store.manifest["sign"],
        store.top_n,
        store.directory,
    )
    return store
