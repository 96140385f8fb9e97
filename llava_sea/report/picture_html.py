"""One held-out picture of the page: caption, the picture, and each projector's grid of words.

Over every grid lies a list with an entry for each patch, invisible until a patch is pointed at or
tapped: the nearest words with their cosines, and what is true there. No script: it is the style
sheet that shows them. On paper they are left out.
"""

from __future__ import annotations

import base64
import io
from html import escape
from string import Template

from PIL import Image

from llava_sea.report.cells import Cell, Grid, Picture
from llava_sea.report.grid_svg import UNIT, grid_svg

LARGE_GRID = 16
"""From so many columns on, grids stand one below the other over the page's whole width."""

PICTURE = Template("""<article class="picture">
<header><h3>$caption</h3><div class="source">$source</div></header>
<div class="panels $layout">
<figure class="seen"><figcaption><b>The picture</b><span>$size, as the model sees
it</span></figcaption>
<svg viewBox="0 0 $width $height" role="img" aria-label="The picture">
<image id="$id" class="$rendering" width="$width" height="$height" preserveAspectRatio="none"
 href="$image"/></svg></figure>
$grids
</div>
</article>""")

GRID = Template("""<figure><figcaption><b>$label</b><span>$score</span></figcaption>
<div class="scroll"><div class="stack" style="--columns:$columns">$svg
<ol class="lists" aria-hidden="true">$lists</ol></div></div></figure>""")


def picture_html(picture: Picture, picture_id: str, truth_known: bool) -> str:
    """Write a picture with its grids.

    Args:
        picture: what its patches say.
        picture_id: an id of its own on the page.
        truth_known: whether "right" means true of the patch, or in the caption.
    """
    first = picture.grids[0]
    layout = "large" if first.columns >= LARGE_GRID else "one" if len(picture.grids) == 1 else ""
    caption = f"“{escape(picture.caption)}”" if picture.caption else "(no caption)"
    return PICTURE.substitute(
        caption=caption,
        source=escape(f"{picture.record.image} · record {picture.record.id}"),
        size=f"{picture.image.width} × {picture.image.height} pixels",
        layout=layout,
        id=picture_id,
        width=first.columns * UNIT,
        height=first.rows * UNIT,
        rendering="pixels" if picture.image.width <= 128 else "smooth",
        image=_data_uri(picture.image),
        grids="\n".join(_grid(grid, picture_id, truth_known) for grid in picture.grids),
    )


def score_text(grid: Grid, truth_known: bool) -> str:
    """Say how many patches are right, and how many of the objects' and the background's."""
    count = len(grid.cells)
    share = f"{100 * grid.right / count:.0f} %"
    if not truth_known:
        return f"{grid.right} of {count} in the caption ({share})"
    text = f"{grid.right} of {count} right ({share})"
    for name, is_object in (("objects", True), ("background", False)):
        right, all_ = grid.right_of(is_object)
        if all_:
            text += f", {right} of {all_} on {name}"
    return text


def _grid(grid: Grid, picture_id: str, truth_known: bool) -> str:
    right = "true word" if truth_known else "in the caption"
    return GRID.substitute(
        label=escape(grid.label[:1].upper() + grid.label[1:]),
        score=score_text(grid, truth_known),
        columns=grid.columns,
        svg=grid_svg(grid, picture_id, f"Nearest word of each patch, {grid.label}", right),
        lists="\n".join(_list(grid, number, cell) for number, cell in enumerate(grid.cells)),
    )


def _list(grid: Grid, number: int, cell: Cell) -> str:
    """Write what pointing at a patch shows; it opens towards the middle of the picture."""
    if not cell.nearest:
        return "<li></li>"
    row, column = divmod(number, grid.columns)
    sides = ("u" if row >= grid.rows / 2 else "") + ("l" if column >= grid.columns / 2 else "")
    where = {True: ", an object", False: ", background", None: ""}[cell.is_object]
    words = "".join(
        f"<i{' class=y' if near.right else ''}>{escape(near.word)}<b>{near.cosine:.2f}</b></i>"
        for near in cell.nearest
    )
    true = f"<em>True here: {escape(', '.join(cell.true))}</em>" if cell.true else ""
    return (
        f'<li tabindex="-1" class="{sides}"><div><u>row {row + 1}, column {column + 1}{where}</u>'
        f"{words}{true}</div></li>"
    )


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
