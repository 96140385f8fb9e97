"""A picture with each patch's word written into it, as SVG: sharp at any size, text to select.

A right word stands dark on light, in bold, with a tick; the others stand light on the darkened
picture. So a glance finds the right ones, on grey paper and without an eye for colours as well. A
line with a dark edge runs around the patches of objects. Sizes are in units of 1/100 patch.
"""

from __future__ import annotations

from html import escape

from llava_sea.report.cells import Cell, Grid

UNIT = 100
MAX_LINE = 11
"""Longer words are cut in two; 11 letters fill a patch at a size that can still be read."""

SHORT_LINE = 6
"""Words that fit into a line of so many letters share it: "a red", "in a"."""

_LARGEST, _LEADING, _BOLD = 24.0, 1.08, 1.1
"""Largest letters; a line's height in sizes; how much wider bold letters are."""
_TICK = 12
"""Height kept free for the tick of a right word."""


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
        f'<use href="#{picture_id}"/>' + "".join(cells) + outline_svg(grid) + "</svg>"
    )


def outline_svg(grid: Grid) -> str:
    """Draw the line around the patches of objects; none where no truth is known."""
    path = outline(grid)
    if not path:
        return ""
    return f'<path class="edge" d="{path}"/><path class="outline" d="{path}"/>'


def outline(grid: Grid) -> str:
    """Return the borders between patches of objects and all else, as an SVG path."""
    return "".join(
        f"M{x0 * UNIT} {y0 * UNIT}" + (f"h{UNIT}" if y0 == y1 else f"v{UNIT}")
        for (x0, y0), (x1, y1) in outline_lines(grid)
    )


def outline_lines(grid: Grid) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return those borders as lines from (x, y) to (x, y), in patches."""
    inside = {
        divmod(number, grid.columns) for number, cell in enumerate(grid.cells) if cell.is_object
    }
    lines = []
    for row, column in sorted(inside):
        corners = (column, row), (column + 1, row), (column, row + 1), (column + 1, row + 1)
        borders = (
            ((row - 1, column), (corners[0], corners[1])),
            ((row + 1, column), (corners[2], corners[3])),
            ((row, column - 1), (corners[0], corners[2])),
            ((row, column + 1), (corners[1], corners[3])),
        )
        lines += [line for beside, line in borders if beside not in inside]
    return lines


def wrap(word: str) -> list[str]:
    """Break a phrase at its spaces, and what is too long for a patch in two; join short words."""
    parts: list[str] = []
    for part in word.split():
        while len(part) > MAX_LINE:
            cut = MAX_LINE - 1 if len(part) > 2 * MAX_LINE else (len(part) + 1) // 2
            parts.append(part[:cut] + "-")
            part = part[cut:]
        parts.append(part)
    if not parts:
        return [word]
    longest = max(SHORT_LINE, *map(len, parts))
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + 1 + len(part) <= longest:
            lines[-1] += f" {part}"
        else:
            lines.append(part)
    return lines


def letter_size(lines: list[str], bold: bool = False) -> float:
    """Return the size of the letters with which the lines fit into a patch of 100 units.

    Args:
        lines: the word, broken.
        bold: whether it is a right one: bold letters, and a tick above them.
    """
    widest = max(sum(map(_width, line)) for line in lines) * (_BOLD if bold else 1)
    height = 94 - (_TICK if bold else 0)
    return min(_LARGEST, 93 / max(widest, 0.1), height / (_LEADING * len(lines)))


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
    centre = y + UNIT / 2 + (_TICK / 2 if cell.right else 0)
    first = centre - leading * (len(lines) - 1) / 2 + size * 0.35
    spans = " ".join(
        f'<tspan x="{x + UNIT // 2}" y="{first + i * leading:.1f}">{escape(line)}</tspan>'
        for i, line in enumerate(lines)
    )
    name = "right" if cell.right else "other"
    tick = f'<path d="M{x + 76} {y + 12}l6 7l11-13"/>' if cell.right else ""
    return (
        f'<g class="{name}"><title>{escape(hover)}</title>'
        f'<rect x="{x + 1}" y="{y + 1}" width="{UNIT - 2}" height="{UNIT - 2}"/>{tick}'
        f'<text font-size="{size:.1f}">{spans}</text></g>\n'
    )
