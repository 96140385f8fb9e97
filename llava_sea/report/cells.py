"""What a picture's patches say, as plain data: words for a patch, patches for a picture.

Nothing here knows a model or a page; `reading` fills it, the drawing modules show it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

from llava_sea.data.records import Record


class Near(NamedTuple):
    """A word near a visual token."""

    word: str
    cosine: float
    right: bool


@dataclass(frozen=True)
class Cell:
    """What one patch says."""

    word: str
    cosine: float
    right: bool
    is_object: bool | None = None
    """Whether an object covers the patch; None where no truth is known."""
    nearest: tuple[Near, ...] = ()
    """The nearest words in their order; the first is `word`."""
    true: tuple[str, ...] = ()
    """Some words that are true of the patch, the most frequent first."""


@dataclass(frozen=True)
class Grid:
    """What the patches of one picture say with one projector, row by row."""

    label: str
    columns: int
    cells: list[Cell]
    tacs: float | None
    """Eq. 14 of this picture and its caption; None for an empty caption."""
    gap: float
    """Eq. 5 of this picture."""
    beside_gap: tuple[float, float, float] = (math.nan, math.nan, math.nan)
    """Eq. 5 between unit vectors, the visual tokens' mean length, and the embedding rows'."""

    @property
    def rows(self) -> int:
        """How many rows of patches."""
        return len(self.cells) // self.columns

    @property
    def right(self) -> int:
        """How many patches have a right word."""
        return sum(cell.right for cell in self.cells)

    def right_of(self, is_object: bool) -> tuple[int, int]:
        """Return how many patches of objects, or of the background, are right, and how many are."""
        cells = [cell for cell in self.cells if cell.is_object is is_object]
        return sum(cell.right for cell in cells), len(cells)


@dataclass(frozen=True)
class Picture:
    """One held-out picture as the model sees it, with what it says."""

    record: Record
    caption: str
    image: Image.Image
    grids: list[Grid]
