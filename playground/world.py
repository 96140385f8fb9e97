"""The miniature world's fixed numbers: picture, patches, splits.

A world small enough to learn on a laptop that has what SEA needs: pictures of things, captions that
name some of them, and a truth for every patch. Everything else reads its measures from here.
Limits: square pictures whose side is a multiple of the patch side.
"""

from __future__ import annotations

import hashlib
from typing import Literal

Split = Literal["train", "dev", "test"]

PICTURE_SIDE = 64
"""Pixels along a side of a picture."""

PATCH_SIDE = 8
"""Pixels along a side of a patch."""

GRID = (PICTURE_SIDE // PATCH_SIDE, PICTURE_SIDE // PATCH_SIDE)
"""Rows and columns of patches."""

STEP = 4
"""Things stand at multiples of this many pixels, so each texture meets the patches in few ways.

At any pixel a tiny encoder learns colours and backgrounds but not one kind in ten minutes.
"""

OBJECT_COVERAGE = 0.5
"""A patch belongs to the object that covers at least this share of it, else to the background."""

TRAIN_SHARE, DEV_SHARE = 0.8, 0.1
"""Shares of all possible contents that fall to train and dev; the rest is test."""


def split_of(content: str) -> Split:
    """Return the split that a scene's content belongs to, for ever and for every seed.

    The split is a property of *what* is in a scene (not of where it stands, nor of a random draw),
    so no content of a test scene can turn up in a training scene.

    Args:
        content: the scene's canonical content, see `playground.scene.Scene.content`.
    """
    digest = hashlib.sha256(content.encode("utf-8")).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    if share < TRAIN_SHARE:
        return "train"
    return "dev" if share < TRAIN_SHARE + DEV_SHARE else "test"
