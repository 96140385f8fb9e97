"""Boards with a short word on them: one letter for each patch, in a pixel font of 5 x 7.

A board lies on the patch grid, so each of its patches shows one letter; which word it is, several
patches must tell together. Limits: lower-case words of `playground.vocabulary.SIGN_WORDS`.
"""

# Shape letters: H board height, W board width, C colour channels.

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from playground.world import PATCH_SIDE

BOARD_RGB, INK_RGB = (246, 240, 205), (24, 28, 92)

GLYPHS = {
    "a": (".###.", "#...#", "#...#", "#####", "#...#", "#...#", "#...#"),
    "b": ("####.", "#...#", "####.", "#...#", "#...#", "#...#", "####."),
    "c": (".####", "#....", "#....", "#....", "#....", "#....", ".####"),
    "e": ("#####", "#....", "###..", "#....", "#....", "#....", "#####"),
    "f": ("#####", "#....", "###..", "#....", "#....", "#....", "#...."),
    "h": ("#...#", "#...#", "#####", "#...#", "#...#", "#...#", "#...#"),
    "i": ("#####", "..#..", "..#..", "..#..", "..#..", "..#..", "#####"),
    "k": ("#...#", "#..#.", "###..", "#.#..", "#..#.", "#...#", "#...#"),
    "l": ("#....", "#....", "#....", "#....", "#....", "#....", "#####"),
    "m": ("#...#", "##.##", "#.#.#", "#.#.#", "#...#", "#...#", "#...#"),
    "n": ("#...#", "##..#", "##..#", "#.#.#", "#..##", "#..##", "#...#"),
    "o": (".###.", "#...#", "#...#", "#...#", "#...#", "#...#", ".###."),
    "p": ("####.", "#...#", "#...#", "####.", "#....", "#....", "#...."),
    "s": (".####", "#....", "#....", ".###.", "....#", "....#", "####."),
    "t": ("#####", "..#..", "..#..", "..#..", "..#..", "..#..", "..#.."),
    "u": ("#...#", "#...#", "#...#", "#...#", "#...#", "#...#", ".###."),
    "x": ("#...#", ".#.#.", "..#..", "..#..", "..#..", ".#.#.", "#...#"),
    "z": ("#####", "....#", "...#.", "..#..", ".#...", "#....", "#####"),
}


def board_width(word: str) -> int:
    """Return the pixels that a word's board is wide; it is `PATCH_SIDE` high."""
    return PATCH_SIDE * len(word)


@cache
def draw_board(word: str) -> NDArray[np.float32]:
    """Draw a board with its word.

    Returns:
        ``board_HWC`` in 0..255.
    """
    shape = (PATCH_SIDE, board_width(word))
    ink_HW = np.zeros(shape, dtype=bool)
    for place, letter in enumerate(word):
        glyph = np.array([list(row) for row in GLYPHS[letter]]) == "#"
        left = place * PATCH_SIDE + 1
        ink_HW[:7, left : left + 5] = glyph
    board_HWC = np.where(ink_HW[..., None], np.array(INK_RGB), np.array(BOARD_RGB))
    return board_HWC.astype(np.float32)
