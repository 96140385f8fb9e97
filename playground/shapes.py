"""What a thing looks like: a silhouette (where it is) and a texture (what each part of it shows).

Textures repeat every 4 or 8 pixels, so an 8-pixel patch from the inside of a thing tells its kind.
A silhouette maps unit coordinates to inside or not; a texture maps pixel coordinates to a tone:
0 the colour's dark shade, 0.5 the colour itself, 1 its light shade.
Limits: no anti-aliasing, which at this size would only blur the textures.
"""

# Shape letters: S box side in pixels.

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

DARK, BASE, LIGHT = 0.0, 0.5, 1.0


def _disc(x: Floats, y: Floats) -> Mask:
    return x**2 + y**2 <= 1.0


def _blob(x: Floats, y: Floats) -> Mask:
    angle = np.arctan2(y, x)
    radius = 0.88 + 0.08 * np.sin(3 * angle + 1) + 0.05 * np.cos(5 * angle)
    return np.hypot(x, y) <= radius


def _leaf(x: Floats, y: Floats) -> Mask:
    along, across = (x + y) / 1.42, (x - y) / 1.42
    return np.abs(across) <= 0.85 * (1 - (along / 1.25) ** 2)


def _house(x: Floats, y: Floats) -> Mask:
    return ((y >= -0.2) & (np.abs(x) <= 0.85)) | ((y < -0.2) & (np.abs(x) <= (y + 1.05) * 1.25))


def _fish(x: Floats, y: Floats) -> Mask:
    body = ((x + 0.2) / 0.8) ** 2 + (y / 0.78) ** 2 <= 1.0
    return body | ((x > 0.35) & (np.abs(y) <= (x - 0.2) * 0.95))


def _mug(x: Floats, y: Floats) -> Mask:
    handle = np.hypot((x - 0.55) / 0.45, y / 0.6)
    return ((x <= 0.6) & (np.abs(y) <= 0.95)) | ((handle <= 1.0) & (handle >= 0.5))


def _flower(x: Floats, y: Floats) -> Mask:
    return np.hypot(x, y) <= 0.82 + 0.2 * np.cos(6 * np.arctan2(y, x))


def _bird(x: Floats, y: Floats) -> Mask:
    body = ((x - 0.05) / 0.85) ** 2 + ((y - 0.25) / 0.65) ** 2 <= 1.0
    head = np.hypot(x + 0.5, y + 0.45) <= 0.48
    beak = (x < -0.8) & (np.abs(y + 0.4) <= (x + 1.05))
    return body | head | beak


def _star(x: Floats, y: Floats) -> Mask:
    angle = np.arctan2(x, -y)
    return np.hypot(x, y) <= 0.78 + 0.24 * np.cos(5 * angle)


def _tree(x: Floats, y: Floats) -> Mask:
    return (np.abs(x) <= 0.35 + (y + 1) * 0.36) & (y <= 0.75) | (np.abs(x) <= 0.25)


def _shirt(x: Floats, y: Floats) -> Mask:
    return (np.abs(x) <= 0.7) & (y >= -0.95) | (np.abs(y + 0.5) <= 0.45)


def _car(x: Floats, y: Floats) -> Mask:
    cabin = (np.abs(x) <= 0.55) & (y >= -0.8) & (y < 0.0)
    return cabin | ((y >= -0.1) & (y <= 0.8))


def _boat(x: Floats, y: Floats) -> Mask:
    hull = (y >= 0.05) & (np.abs(x) <= 1.15 - 0.5 * y)
    return hull | ((y < 0.1) & (np.abs(x + 0.1) <= (y + 1.05) * 0.75))


def _hat(x: Floats, y: Floats) -> Mask:
    return ((y >= 0.35) & (y <= 0.9)) | ((np.abs(x) <= 0.68) & (y >= -0.85) & (y < 0.5))


def _lamp(x: Floats, y: Floats) -> Mask:
    shade = (y <= 0.3) & (np.abs(x) <= 0.5 + (y + 1) * 0.36)
    return shade | (np.abs(x) <= 0.22) | ((y >= 0.7) & (np.abs(x) <= 0.6))


def _butterfly(x: Floats, y: Floats) -> Mask:
    upper = np.hypot(np.abs(x) - 0.5, y + 0.42) <= 0.58
    return upper | (np.hypot(np.abs(x) - 0.42, y - 0.48) <= 0.5) | (np.abs(x) <= 0.14)


def _umbrella(x: Floats, y: Floats) -> Mask:
    canopy = (np.hypot(x, (y - 0.25) / 1.1) <= 1.05) & (y <= 0.25)
    return canopy | ((np.abs(x) <= 0.14) & (y > 0))


def _octagon(x: Floats, y: Floats) -> Mask:
    return (np.abs(x) + np.abs(y) <= 1.42) & (np.maximum(np.abs(x), np.abs(y)) <= 0.98)


SILHOUETTES: dict[str, Callable[[Floats, Floats], Mask]] = {
    "disc": _disc,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) <= 0.95,
    "blob": _blob,
    "leaf": _leaf,
    "house": _house,
    "fish": _fish,
    "basket": lambda x, y: (np.abs(x) <= 0.95 - 0.2 * (y + 1) / 2) & (y >= -0.85),
    "page": lambda x, y: np.abs(x) <= 0.8,
    "mug": _mug,
    "diamond": lambda x, y: np.abs(x) + np.abs(y) <= 1.15,
    "wheel": lambda x, y: (np.hypot(x, y) <= 1.0) & (np.hypot(x, y) >= 0.12),
    "flower": _flower,
    "bird": _bird,
    "star": _star,
    "tree": _tree,
    "shirt": _shirt,
    "car": _car,
    "boat": _boat,
    "hat": _hat,
    "drum": lambda x, y: np.abs(x) <= 0.92 - 0.14 * (1 - np.abs(y)),
    "lamp": _lamp,
    "butterfly": _butterfly,
    "umbrella": _umbrella,
    "octagon": _octagon,
}


def _two(is_dark: NDArray[np.bool_], other: float = 0.7) -> Floats:
    return np.where(is_dark, DARK, other).astype(np.float32)


def _plain(x: Floats, y: Floats, side: int) -> Floats:
    glow = 1.0 - np.hypot(x - side * 0.35, y - side * 0.35) / side
    return (0.4 + 0.3 * glow).astype(np.float32)


def _from_middle(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Distances to the middle of the 8-pixel tile."""
    return np.abs(np.mod(x, 8) - 3.5), np.abs(np.mod(y, 8) - 3.5)


def _crosses(x: Floats, y: Floats, side: int) -> Floats:
    u, v = _from_middle(x, y)
    return _two((np.minimum(u, v) < 1) & (np.maximum(u, v) < 3))


def _speckles(x: Floats, y: Floats, side: int) -> Floats:
    hashed = np.mod(np.sin(np.mod(x, 8) * 12.9898 + np.mod(y, 8) * 78.233) * 43758.547, 1.0)
    tones = np.where(hashed < 0.4, DARK, np.where(hashed > 0.75, LIGHT, BASE))
    return tones.astype(np.float32)


def _bricks(x: Floats, y: Floats, side: int) -> Floats:
    shift = 4 * np.mod(np.floor(y / 4), 2)
    return _two((np.mod(y, 4) < 1) | (np.mod(x + shift, 8) < 1), BASE)


def _scales(x: Floats, y: Floats, side: int) -> Floats:
    return _two(np.abs(np.hypot(*_from_middle(x, y)) - 3.0) < 0.8)


def _dots(x: Floats, y: Floats, side: int) -> Floats:
    u, v = np.mod(x, 4), np.mod(y, 4)
    return np.where((u >= 1) & (u <= 2) & (v >= 1) & (v <= 2), LIGHT, 0.3).astype(np.float32)


def _rays(x: Floats, y: Floats, side: int) -> Floats:
    u, v = _from_middle(x, y)
    return np.where(u > v, LIGHT, 0.2).astype(np.float32)


def _triangles(x: Floats, y: Floats, side: int) -> Floats:
    return _two(_from_middle(x, y)[0] < np.mod(y, 8) * 0.5)


def _plaid(x: Floats, y: Floats, side: int) -> Floats:
    across, down = np.mod(x, 8) < 4, np.mod(y, 8) < 4
    tones = np.where(across & down, LIGHT, np.where(across | down, BASE, DARK))
    return tones.astype(np.float32)


def _frames(x: Floats, y: Floats, side: int) -> Floats:
    edge = np.maximum(*_from_middle(x, y))
    return np.where(edge > 3, LIGHT, np.where(edge > 2, DARK, 0.6)).astype(np.float32)


def _shelves(x: Floats, y: Floats, side: int) -> Floats:
    down = np.mod(y, 8)
    return np.where(down < 3, LIGHT, np.where(down < 5, BASE, 0.1)).astype(np.float32)


def _hooks(x: Floats, y: Floats, side: int) -> Floats:
    u, v = np.mod(x, 8), np.mod(y, 8)
    return _two(((u < 2) & (v < 7)) | ((u < 6) & (v >= 5) & (v < 7)), 0.8)


def _diamonds(x: Floats, y: Floats, side: int) -> Floats:
    u, v = _from_middle(x, y)
    return np.where(u + v < 3.2, LIGHT, 0.3).astype(np.float32)


def _pips(x: Floats, y: Floats, side: int) -> Floats:
    u, v = np.mod(x, 8), np.mod(y, 8)
    first = (np.abs(u - 1.5) < 1.2) & (np.abs(v - 1.5) < 1.2)
    return _two(first | ((np.abs(u - 5.5) < 1.2) & (np.abs(v - 5.5) < 1.2)), 0.75)


def _tees(x: Floats, y: Floats, side: int) -> Floats:
    u, v = np.mod(x, 8), np.mod(y, 8)
    return _two(((u < 7) & (v < 2)) | ((u >= 2) & (u < 5) & (v < 7)), 0.9)


TEXTURES: dict[str, Callable[[Floats, Floats, int], Floats]] = {
    "plain": _plain,
    "crosses": _crosses,
    "speckles": _speckles,
    "slanted": lambda x, y, side: _two(np.mod(x + y, 4) < 2),
    "bricks": _bricks,
    "scales": _scales,
    "checks": lambda x, y, side: _two(np.mod(np.floor(x / 4) + np.floor(y / 4), 2) == 0),
    "lines": lambda x, y, side: _two(np.mod(y, 4) < 2),
    "bars": lambda x, y, side: _two(np.mod(x, 4) < 2),
    "lattice": lambda x, y, side: _two((np.mod(x + y, 8) < 1) | (np.mod(x - y, 8) < 1)),
    "rings": lambda x, y, side: _two(np.hypot(*_from_middle(x, y)) < 2.4),
    "dots": _dots,
    "zigzag": lambda x, y, side: _two(np.mod(y + np.abs(np.mod(x, 8) - 4), 4) < 2, BASE),
    "rays": _rays,
    "triangles": _triangles,
    "plaid": _plaid,
    "frames": _frames,
    "shelves": _shelves,
    "gingham": lambda x, y, side: _two(np.mod(np.floor(x / 2) + np.floor(y / 2), 2) == 0),
    "hooks": _hooks,
    "diamonds": _diamonds,
    "pips": _pips,
    "backslanted": lambda x, y, side: _two(np.mod(x - y, 4) < 2),
    "tees": _tees,
}
"""Tones of pixels by name; all but "plain" repeat every 4 or 8 pixels."""


@cache
def draw_shape(silhouette: str, texture: str, side: int) -> tuple[Mask, Floats]:
    """Return where a thing is in its box and which tone each pixel has.

    Args:
        silhouette: key of `SILHOUETTES`.
        texture: key of `TEXTURES`.
        side: side of the box in pixels.

    Returns:
        ``mask_SS`` (bool) and ``tone_SS`` (0 dark, 0.5 base, 1 light).
    """
    y_SS, x_SS = np.mgrid[0:side, 0:side].astype(np.float32)
    unit = 2.0 / side
    mask_SS = SILHOUETTES[silhouette](x_SS * unit + unit / 2 - 1, y_SS * unit + unit / 2 - 1)
    tone_SS = TEXTURES[texture](x_SS, y_SS, side)
    mask_SS.setflags(write=False)
    tone_SS.setflags(write=False)
    return mask_SS, tone_SS
