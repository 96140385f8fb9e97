"""The page's section with the map of figure 2, and exactly what is drawn in it."""

from __future__ import annotations

from html import escape

from llava_sea.report.map_svg import CROSS, SHAPES, everything_svg, shape_svg, source_svg
from llava_sea.report.token_map import TokenMap
from llava_sea.report.tsne import NEIGHBOURS, SEED


def map_html(tokens: TokenMap | None) -> str:
    """Write the section; nothing where there is no map."""
    if tokens is None:
        return ""
    figures = [_figure("All together", _sources_key(tokens), everything_svg(tokens))]
    figures += [
        _figure(source.name, _share_text(tokens, i), source_svg(tokens, i))
        for i, source in enumerate(tokens.sources)
    ]
    groups = _groups_key(tokens)
    return (
        "<h2>Do visual tokens lie among words?</h2>\n"
        f'<p class="intro">{_intro(tokens)}</p>\n{groups}'
        f'<div class="maps">\n{"".join(figures)}\n</div>\n'
        f'<p class="fine">{caption(tokens)} {_shares_text(tokens)}</p>'
    )


def caption(tokens: TokenMap) -> str:
    """Say exactly what is drawn, as plain text."""
    count, sources = tokens.num_tokens, len(tokens.sources)
    all_points = count * sources + len(tokens.words)
    text = (
        f"One t-SNE of {all_points:,} points (metric: cosine; perplexity "
        f"{tokens.perplexity:.0f}; scikit-learn, Barnes-Hut, started from principal components, "
        f"seed {SEED}); every panel shows the same map. {count:,} visual tokens for each of "
        f"{sources} projector{'s' if sources > 1 else ''}: the same patches, drawn at random"
    )
    if tokens.shown_groups:
        text += " (half of them on objects as far as there are so many)"
    text += (
        f", of the first {tokens.num_pictures:,} held-out pictures. "
        f"{len(tokens.words):,} text tokens: the words of the list that occur in these pictures’ "
        "captions, the most frequent first, each the mean of its tokens’ input embeddings. "
    )
    if tokens.shown_groups:
        text += "A patch’s colour is the most frequent noun that is true of it. "
    return text + (
        "In t-SNE who is whose neighbour counts; how far apart or how large groups are means "
        "nothing."
    )


def _shares_text(tokens: TokenMap) -> str:
    text = (
        f"The shares above are counted in the full space instead, by cosine: what the {NEIGHBOURS} "
        "nearest neighbours of a visual token are, among the words and the visual tokens of its "
        "own projector"
    )
    if tokens.num_nouns:
        text += (
            f"; and of the {NEIGHBOURS} visual tokens nearest to a noun, how many show it, a mean "
            f"over the {tokens.num_nouns:,} nouns that {NEIGHBOURS} or more of the patches show"
        )
    return text + "."


def _intro(tokens: TokenMap) -> str:
    text = (
        "If the projector does its work, a patch’s token lies near the words for what it shows: "
        "visual tokens and words mix instead of standing apart"
    )
    if tokens.shown_groups:
        text += (
            ", and tokens of one thing gather around its word. Names stand at the large marks, "
            "which are these words’ own embeddings"
        )
    return text + (
        ". The share of words among a token’s neighbours answers the question: as by chance they "
        "mix, at 0 % they do not at all."
    )


def _sources_key(tokens: TokenMap) -> str:
    keys = [
        f"<span>{shape_svg(f'v{i}', SHAPES[i])}{escape(source.name)}</span>"
        for i, source in enumerate(tokens.sources)
    ]
    keys.append(f"<span>{shape_svg('word', CROSS)}words</span>")
    return f'<span class="keys">{"".join(keys)}</span>'


def _groups_key(tokens: TokenMap) -> str:
    if not tokens.shown_groups:
        return ""
    keys = [
        f"<span>{shape_svg(f'g{i}', SHAPES[i])}{escape(name)}</span>"
        for i, name in enumerate(tokens.shown_groups)
    ]
    keys.append(f"<span>{shape_svg('rest', SHAPES[0])}anything else</span>")
    keys.append(f"<span>{shape_svg('word', CROSS)}a word</span>")
    return f'<p class="keys">What the patch shows: {"".join(keys)}</p>\n'


def _share_text(tokens: TokenMap, number: int) -> str:
    source = tokens.sources[number]
    rows = [("Words among a token’s neighbours", source.words_near, tokens.words_by_chance)]
    if source.group_near is not None and tokens.groups_by_chance is not None:
        rows.append(
            ("Visual neighbours that show the same", source.group_near, tokens.groups_by_chance)
        )
    if source.nouns_hit is not None and tokens.nouns_by_chance is not None:
        rows.append(
            ("Tokens nearest to a noun that show it", source.nouns_hit, tokens.nouns_by_chance)
        )
    return "".join(
        f"<span>{name}: <strong>{_percent(share)}</strong> (chance {_percent(chance)})</span>"
        for name, share, chance in rows
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\u00a0%"


def _figure(name: str, below: str, svg: str) -> str:
    title = escape(name[:1].upper() + name[1:])
    return f"<figure><figcaption><b>{title}</b>{below}</figcaption>\n{svg}</figure>"
