"""Drawing: a scene becomes a picture, and the renderer says which thing owns which pixel.

The same scene gives the same pixels always. Limits: things do not overlap, so owners are plain.
"""

# Shape letters: H picture side, S box side, C colour channels, R rows and K columns of patches.

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from playground.backgrounds import paint_background
from playground.scene import Scene, Thing
from playground.shapes import draw_shape
from playground.signs import draw_board
from playground.world import GRID, OBJECT_COVERAGE, PATCH_SIDE, PICTURE_SIDE

BACKGROUND, SIGN = -1, -2
"""The owners of pixels and patches that no thing owns."""

DARK_SHADE = 0.55
"""The dark shade is this share of a colour."""

LIGHT_TINT = 0.4
"""The light shade goes this share of the way to white."""


def _shape_of(thing: Thing) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    kind = thing.kind_row
    return draw_shape(kind.silhouette, kind.texture, thing.size_row.side)


def _box(thing: Thing) -> tuple[slice, slice]:
    side = thing.size_row.side
    return slice(thing.y, thing.y + side), slice(thing.x, thing.x + side)


def _board(scene: Scene) -> tuple[tuple[slice, slice], NDArray[np.float32]] | None:
    if scene.sign is None:
        return None
    board_HWC = draw_board(scene.sign.word)
    height, width, _ = board_HWC.shape
    x, y = scene.sign.x, scene.sign.y
    return (slice(y, y + height), slice(x, x + width)), board_HWC


def render_scene(scene: Scene) -> NDArray[np.uint8]:
    """Draw the scene.

    Returns:
        ``picture_HHC``: RGB, uint8.
    """
    rng = np.random.Generator(np.random.PCG64(scene.noise_seed))
    picture_HHC = paint_background(scene.background_row.painter, rng)
    for thing in scene.things:
        mask_SS, tone_SS = _shape_of(thing)
        base_C = np.asarray(thing.colour_row.rgb, dtype=np.float32)
        dark_C, light_C = base_C * DARK_SHADE, base_C + LIGHT_TINT * (255 - base_C)
        low_SS1 = np.clip(1 - 2 * tone_SS, 0, 1)[..., None]
        high_SS1 = np.clip(2 * tone_SS - 1, 0, 1)[..., None]
        colour_SSC = dark_C * low_SS1 + light_C * high_SS1 + base_C * (1 - low_SS1 - high_SS1)
        colour_SSC = colour_SSC * rng.uniform(0.9, 1.08)
        picture_HHC[_box(thing)][mask_SS] = colour_SSC[mask_SS]
    if board := _board(scene):
        picture_HHC[board[0]] = board[1]
    picture_HHC += rng.standard_normal(picture_HHC.shape, dtype=np.float32) * 3.0
    return np.clip(np.rint(picture_HHC), 0, 255).astype(np.uint8)


def pixel_owners(scene: Scene) -> NDArray[np.int8]:
    """Return ``owner_HH``: the index of the thing at each pixel, `SIGN` or `BACKGROUND`."""
    owner_HH = np.full((PICTURE_SIDE, PICTURE_SIDE), BACKGROUND, dtype=np.int8)
    for index, thing in enumerate(scene.things):
        owner_HH[_box(thing)][_shape_of(thing)[0]] = index
    if board := _board(scene):
        owner_HH[board[0]] = SIGN
    return owner_HH


def patch_owners(scene: Scene) -> NDArray[np.int8]:
    """Return ``owner_RK``: what covers at least `OBJECT_COVERAGE` of each patch.

    Patches that neither a thing nor the sign covers that far belong to `BACKGROUND`.
    """
    rows, columns = GRID
    owner_HH = pixel_owners(scene)
    owner_RK = np.full(GRID, BACKGROUND, dtype=np.int8)
    for index in (SIGN, *range(len(scene.things))):
        blocks = (owner_HH == index).reshape(rows, PATCH_SIDE, columns, PATCH_SIDE)
        owner_RK[blocks.mean(axis=(1, 3)) >= OBJECT_COVERAGE] = index
    return owner_RK
