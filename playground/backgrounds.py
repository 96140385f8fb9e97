"""Painters of the backgrounds: muted colours, each with a texture of its own.

A painter turns noise and a shift into a picture of tones from -1 to 1 that is added to the
background's own muted colour, so that two pictures of the same background never agree in pixels
but always in texture. Limits: one background per picture.
"""

# Shape letters: H picture side, C colour channels.

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from playground.world import PICTURE_SIDE

Floats = NDArray[np.float32]


def _blades(x: Floats, y: Floats, noise: Floats) -> Floats:
    return np.sin(2.1 * x + 1.5 * np.sin(0.9 * y + x)) + 0.5 * noise


def _grains(x: Floats, y: Floats, noise: Floats) -> Floats:
    return 0.9 * noise


def _ripples(x: Floats, y: Floats, noise: Floats) -> Floats:
    return np.sin(0.95 * y + 1.4 * np.sin(0.35 * x)) + 0.1 * noise


def _planks(x: Floats, y: Floats, noise: Floats) -> Floats:
    seam = np.where(np.mod(x, 8) < 1, -1.8, 0.3)
    return seam + 0.4 * np.sin(2.0 * x + 0.6 * np.sin(0.25 * y)) + 0.1 * noise


def _courses(x: Floats, y: Floats, noise: Floats) -> Floats:
    row = np.floor(y / 6)
    joint = (np.mod(y, 6) < 1) | (np.mod(x + 6 * np.mod(row, 2), 12) < 1)
    return np.where(joint, 1.6, -0.2) + 0.15 * noise


def _flakes(x: Floats, y: Floats, noise: Floats) -> Floats:
    return np.where(noise > 1.3, 0.8, 0.0) + 0.4 * np.sin(0.4 * (x + 0.7 * y)) + 0.05 * noise


def _weave(x: Floats, y: Floats, noise: Floats) -> Floats:
    over = np.mod(np.floor(x / 3) + np.floor(y / 3), 2) == 0
    return np.where(over, np.sin(2.1 * x), np.sin(2.1 * y)) + 0.2 * noise


def _pebbles(x: Floats, y: Floats, noise: Floats) -> Floats:
    down, across = np.mod(y, 4) - 1.5, np.mod(x + 2 * np.mod(np.floor(y / 4), 2), 4) - 1.5
    return np.where(np.hypot(across, down) < 1.7, 0.7, -1.3) + 0.4 * noise


def _clouds(x: Floats, y: Floats, noise: Floats) -> Floats:
    return 1.2 * np.sin(0.13 * x + np.sin(0.21 * y)) * np.sin(0.17 * y + 0.11 * x) + 0.05 * noise


PAINTERS: dict[str, tuple[Callable[[Floats, Floats, Floats], Floats], tuple[int, int, int]]] = {
    "blades": (_blades, (88, 118, 72)),
    "grains": (_grains, (205, 185, 145)),
    "ripples": (_ripples, (95, 145, 165)),
    "planks": (_planks, (140, 105, 75)),
    "courses": (_courses, (150, 95, 80)),
    "flakes": (_flakes, (215, 222, 232)),
    "weave": (_weave, (125, 90, 120)),
    "pebbles": (_pebbles, (140, 140, 142)),
    "clouds": (_clouds, (150, 185, 225)),
}
"""Painter and muted colour by name."""

CONTRAST = 26.0
"""Levels out of 255 that a tone of 1 adds."""


@lru_cache(maxsize=1)
def _coordinates() -> tuple[Floats, Floats]:
    y_HH, x_HH = np.mgrid[0:PICTURE_SIDE, 0:PICTURE_SIDE].astype(np.float32)
    return y_HH, x_HH


def paint_background(painter: str, rng: np.random.Generator) -> Floats:
    """Paint a whole background.

    Args:
        painter: key of `PAINTERS`.
        rng: source of the noise and of the shift.

    Returns:
        ``picture_HHC`` in 0..255, float32, not yet clipped.
    """
    paint, rgb = PAINTERS[painter]
    y_HH, x_HH = _coordinates()
    down, across = rng.integers(0, 48, size=2)
    noise_HH = rng.standard_normal(y_HH.shape, dtype=np.float32)
    tone_HH = paint(x_HH + across, y_HH + down, noise_HH)
    colour_C = np.asarray(rgb, dtype=np.float32)
    picture_HHC = colour_C + CONTRAST * tone_HH[..., None]
    return picture_HHC.astype(np.float32)
