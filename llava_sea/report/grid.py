"""An image with each patch's word written into it, as SVG: sharp at any size, text to select.

A right word stands dark on light, in bold, with a tick; the others stand light on the darkened
image. So a glance finds the right ones, on grey paper and without an eye for colours as well. A
line with a dark edge runs around the patches of objects. Sizes are in units of 1/100 patch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from markupsafe import Markup, escape
from PIL import Image

from llava_sea.data.records import Record

UNIT = 100
MAX_LINE = 11
"""Longer words are cut in two; 11 letters fill a patch at a size that can still be read."""
SHORT_LINE = 6
"""Words that fit into a line of so many letters share it: "a red", "in a"."""

_LARGEST, _LEADING, _BOLD = 24.0, 1.08, 1.1
"""Largest letters; a line's height in sizes; how much wider bold letters are."""
_TICK = 12
"""Height kept free for the tick of a right word."""

Corners = tuple[tuple[int, int], tuple[int, int]]


class Near(NamedTuple):
    """A word near a visual token."""

    word: str
    cosine: float
    right: bool


class Cell(NamedTuple):
    """The words of one patch."""

    nearest: tuple[Near, ...]
    """The nearest words, the nearest first; there is at least one."""
    is_object: bool | None = None
    """Whether an object covers the patch; None where no truth is known."""
    true: tuple[str, ...] = ()
    """Some words that are true of the patch, the most frequent first."""

    @property
    def right(self) -> bool:
        """Whether the nearest word is right."""
        return self.nearest[0].right


@dataclass(frozen=True)
class Grid:
    """The patches of one image with one projector, row by row."""

    label: str
    columns: int
    cells: list[Cell]
    measured: dict[str, float] = field(default_factory=dict)
    """Measures of this image alone, under their keys of the log."""

    @property
    def rows(self) -> int:
        """Return the number of rows of patches."""
        return len(self.cells) // self.columns

    def right(self, is_object: bool | None = None) -> tuple[int, int]:
        """Return how many patches have a right word, and how many there are, all or some."""
        cells = [cell for cell in self.cells if is_object in (None, cell.is_object)]
        return sum(cell.right for cell in cells), len(cells)


class Example(NamedTuple):
    """One held-out image as the model sees it, with a grid for each projector."""

    record: Record
    caption: str
    image: Image.Image
    grids: list[Grid]


def grid_svg(grid: Grid, image_id: str, right: str) -> Markup:
    """Draw a grid.

    Args:
        grid: the patches.
        image_id: the id of the SVG ``image`` that lies below; it fills the grid.
        right: the name of a right word, as "true word".
    """
    width, height = grid.columns * UNIT, grid.rows * UNIT
    cells = Markup()
    for number, cell in enumerate(grid.cells):
        row, column = divmod(number, grid.columns)
        word, cosine, _ = cell.nearest[0]
        hover = f"row {row + 1}, column {column + 1}: {word} (cosine {cosine:.2f})"
        hover += f", {right}" if cell.right else ""
        cells += cell_svg(word, cell.right, hover, column * UNIT, row * UNIT)
    return Markup(
        f'<svg class="grid" viewBox="0 0 {width} {height}" role="group" aria-label="Nearest word '
        f'of each patch, {escape(grid.label)}" style="--columns:{grid.columns}">'
        f'<use href="#{image_id}"/>{cells}{outline_svg(grid)}</svg>'
    )


def cell_svg(word: str, right: bool, hover: str, x: int = 0, y: int = 0) -> Markup:
    """Draw one patch with its upper left corner at (x, y)."""
    lines = wrap(word)
    size = letter_size(lines, bold=right)
    leading = size * _LEADING
    centre = y + UNIT / 2 + (_TICK / 2 if right else 0)
    first = centre - leading * (len(lines) - 1) / 2 + size * 0.35
    spans = " ".join(
        f'<tspan x="{x + UNIT // 2}" y="{first + i * leading:.1f}">{escape(line)}</tspan>'
        for i, line in enumerate(lines)
    )
    tick = f'<path d="M{x + 76} {y + 12}l6 7l11-13"/>' if right else ""
    return Markup(
        f'<g class="{"right" if right else "other"}"><title>{escape(hover)}</title>'
        f'<rect x="{x + 1}" y="{y + 1}" width="{UNIT - 2}" height="{UNIT - 2}"/>{tick}'
        f'<text font-size="{size:.1f}">{spans}</text></g>\n'
    )


def outline_svg(grid: Grid) -> Markup:
    """Draw the line around the patches of objects; none where no truth is known."""
    path = "".join(
        f"M{x0 * UNIT} {y0 * UNIT}" + (f"h{UNIT}" if y0 == y1 else f"v{UNIT}")
        for (x0, y0), (x1, y1) in outline(grid)
    )
    if not path:
        return Markup()
    return Markup(f'<path class="edge" d="{path}"/><path class="outline" d="{path}"/>')


def outline(grid: Grid) -> list[Corners]:
    """Return the borders of objects, as lines from (x, y) to (x, y) in patches."""
    inside = {divmod(i, grid.columns) for i, cell in enumerate(grid.cells) if cell.is_object}
    lines: list[Corners] = []
    for row, column in sorted(inside):
        x0, y0, x1, y1 = column, row, column + 1, row + 1
        borders = (
            ((row - 1, column), ((x0, y0), (x1, y0))),
            ((row + 1, column), ((x0, y1), (x1, y1))),
            ((row, column - 1), ((x0, y0), (x0, y1))),
            ((row, column + 1), ((x1, y0), (x1, y1))),
        )
        lines += [line for beside, line in borders if beside not in inside]
    return lines


def wrap(word: str) -> list[str]:
    """Break a phrase at its spaces, and a part too long for a patch in two; join short words."""
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
    """Return the size of letters with which the lines fit into a patch of 100 units.

    A right word is `bold`, and has a tick above it.
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
