"""A picture with each patch's word written into it, as SVG: sharp at any size, text to select.

A right word stands on green, in bold, inside a frame: not by colour alone. The others stand on the
darkened picture. Hovering shows row, column, word and cosine. Sizes are in units of 1/100 patch.
"""

from __future__ import annotations

from html import escape

from llava_sea.report.reading import Cell, Grid

UNIT = 100
MAX_LINE = 11
"""Longer words are cut in two; 11 letters fill a patch at a size that can still be read."""

_LARGEST, _LEADING, _BOLD = 27.0, 1.08, 1.1
"""Largest letters; a line's height in sizes; how much wider bold letters are."""


def grid_svg(grid: Grid, picture_id: str, title: str, right: str) -> str:
    """Draw a grid.

    Args:
        grid: what the patches say.
        picture_id: the id of the SVG ``image`` that lies below; it fills the grid.
        title: what the drawing is, for those who can't see it.
        right: what a right word is called in the hover text, as "true word".
    """
    width, height = grid.columns * UNIT, grid.rows * UNIT
    cells = []
    for number, cell in enumerate(grid.cells):
        row, column = divmod(number, grid.columns)
        hover = f"row {row + 1}, column {column + 1}: {cell.word} (cosine {cell.cosine:.2f})"
        if cell.right:
            hover += f", {right}"
        cells.append(grid_cell(cell, column * UNIT, row * UNIT, hover))
    return (
        f'<svg class="grid" viewBox="0 0 {width} {height}" role="group" '
        f'aria-label="{escape(title)}" style="--columns:{grid.columns}">'
        f'<use href="#{picture_id}"/>' + "".join(cells) + "</svg>"
    )


def wrap(word: str) -> list[str]:
    """Break a phrase at its spaces, and what is too long for a patch in two."""
    lines: list[str] = []
    for part in word.split():
        while len(part) > MAX_LINE:
            cut = MAX_LINE - 1 if len(part) > 2 * MAX_LINE else (len(part) + 1) // 2
            lines.append(part[:cut] + "-")
            part = part[cut:]
        lines.append(part)
    return lines or [word]


def letter_size(lines: list[str], bold: bool = False) -> float:
    """Return the size of the letters with which the lines fit into a patch of 100 units."""
    widest = max(sum(map(_width, line)) for line in lines) * (_BOLD if bold else 1)
    return min(_LARGEST, 93 / max(widest, 0.1), 93 / (_LEADING * len(lines)))


def _width(letter: str) -> float:
    """Return about how wide a letter is, in sizes; DejaVu Sans, wider than most."""
    if letter in "iljtfr'.,-| ":
        return 0.4
    if letter in "mwMW@%" or ord(letter) > 0x2E80:
        return 1.0
    return 0.64 if letter.islower() else 0.72


def grid_cell(cell: Cell, x: int, y: int, hover: str) -> str:
    """Draw one patch with its upper left corner at (x, y)."""
    lines = wrap(cell.word)
    size = letter_size(lines, bold=cell.right)
    leading = size * _LEADING
    first = y + UNIT / 2 - leading * (len(lines) - 1) / 2 + size * 0.35
    spans = " ".join(
        f'<tspan x="{x + UNIT // 2}" y="{first + i * leading:.1f}">{escape(line)}</tspan>'
        for i, line in enumerate(lines)
    )
    name = "right" if cell.right else "other"
    return (
        f'<g class="{name}"><title>{escape(hover)}</title>'
        f'<rect x="{x + 1}" y="{y + 1}" width="{UNIT - 2}" height="{UNIT - 2}"/>'
        f'<text font-size="{size:.1f}">{spans}</text></g>\n'
    )
