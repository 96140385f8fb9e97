"""Figure 2's map as SVG: a panel with everything, and one for each projector.

Every kind of point has a shape of its own beside its colour. All points of a kind are one path, so
thousands cost little. Sizes are in pixels of a 380 x 380 drawing.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from llava_sea.report.chart_svg import spread
from llava_sea.report.token_map import TokenMap
from llava_sea.report.tsne import Floats

SIZE, EDGE = 380, 14
SHAPES = (
    "m-2.6 0a2.6 2.6 0 1 0 5.2 0a2.6 2.6 0 1 0-5.2 0z",  # circle
    "m-2.3-2.3h4.6v4.6h-4.6z",  # square
    "m0-3.1l2.9 5.2h-5.8z",  # triangle
    "m0-3.5l3.1 3.5l-3.1 3.5l-3.1-3.5z",  # diamond
    "m0 3.1l2.9-5.2h-5.8z",  # triangle on its head
    "m-3.2-1.1h6.4v2.2h-6.4z",  # bar
)
CROSS = "m-2.2-2.2l4.4 4.4m0-4.4l-4.4 4.4"


def everything_svg(tokens: TokenMap) -> str:
    """Draw all visual tokens and words; a source's shape and colour are its place's."""
    parts = [_points("word", CROSS, tokens.words_T2)]
    parts += [
        _points(f"v{i}", SHAPES[i], source.places_N2) for i, source in enumerate(tokens.sources)
    ]
    return _svg(parts, "Visual tokens and words")


def source_svg(tokens: TokenMap, number: int) -> str:
    """Draw one source's visual tokens by group, the words, and the groups' words in letters."""
    source = tokens.sources[number]
    shown = {name: i for i, name in enumerate(tokens.shown_groups)}
    of_group = [shown.get(group) if group is not None else None for group in tokens.groups]
    rest = [i for i, group in enumerate(of_group) if group is None]
    # Without groups the points keep the source's own look.
    rest_look = ("rest", SHAPES[0]) if shown else (f"v{number}", SHAPES[number])
    parts = [_points("word", CROSS, tokens.words_T2), _points(*rest_look, source.places_N2[rest])]
    for name, group in shown.items():
        own = [i for i, of in enumerate(of_group) if of == group]
        parts.append(
            f"<g><title>{escape(name)}</title>"
            + _points(f"g{group}", SHAPES[group], source.places_N2[own])
            + "</g>"
        )
    return _svg([*parts, *_names(tokens)], f"Visual tokens by what is true of them, {source.name}")


def shape_svg(kind: str, shape: str) -> str:
    """Draw one point for a legend."""
    return (
        f'<svg class="map point" viewBox="-5 -5 10 10" aria-hidden="true">'
        f'<path class="{kind}" d="M0 0{shape}"/></svg>'
    )


def _names(tokens: TokenMap) -> list[str]:
    """Write the shown groups' words where these words' own embeddings lie."""
    place = {word: i for i, word in enumerate(tokens.words)}
    named = [(group, name) for group, name in enumerate(tokens.shown_groups) if name in place]
    points = [_pixels(*tokens.words_T2[place[name]]) for _, name in named]
    heights = spread([y for _, y in points], 15.0, SIZE - 6)
    drawn = []
    for (group, name), (x, y), height in zip(named, points, heights, strict=True):
        # Close words are written below each other; the marks stay where the words lie.
        side, anchor = (-8, "end") if x > SIZE - 70 else (8, "start")
        drawn.append(
            f'<g class="home g{group}" transform="translate({x:.1f} {y:.1f}) scale(1.7)">'
            f'<path d="M0 0{SHAPES[group]}"/></g>'
            f'<text class="g{group}" x="{x + side:.0f}" y="{height + 4:.0f}" '
            f'text-anchor="{anchor}">{escape(name)}</text>'
        )
    return drawn


def _points(kind: str, shape: str, places_N2: Floats) -> str:
    return f'<path class="{kind}" d="{"".join(_marks(shape, places_N2))}"/>'


def _marks(shape: str, places_N2: Floats) -> Iterable[str]:
    for place in places_N2:
        x, y = _pixels(*place)
        yield f"M{x:.1f} {y:.1f}{shape}"


def _pixels(x: float, y: float) -> tuple[float, float]:
    return EDGE + float(x) * (SIZE - 2 * EDGE), EDGE + float(y) * (SIZE - 2 * EDGE)


def _svg(parts: list[str], title: str) -> str:
    return (
        f'<svg class="map" viewBox="0 0 {SIZE} {SIZE}" role="img" aria-label="{escape(title)}">'
        + "\n".join(parts)
        + "</svg>"
    )
