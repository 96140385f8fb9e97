"""The report's fixed texts: what it is, how to read the pictures, and what each measure means."""

from __future__ import annotations

from html import escape
from string import Template

from llava_sea.report.cells import Cell, Grid
from llava_sea.report.grid_svg import UNIT, grid_cell, outline_svg

WHAT = Template("""A picture is cut into patches, and each patch reaches the language model as one
vector. A projector makes these vectors, and stage 1 trains it and nothing else. Below, every patch
carries the word that lies nearest to its vector: what it says to the language model.$compare""")
COMPARE_RUNS = Template(""" Two projectors read the same pictures: <strong>$baseline</strong>, and
<strong>$run</strong>.""")

LEGEND = Template("""<ul class="legend">
<li>$right_cell<span>$right</span></li>
<li>$other_cell<span><strong>Dark: any other word.</strong> It is the nearest of the list’s
$num_words most frequent words and phrases, but not $not_right.</span></li>
$outline
<li class="screen"><span>Point at a patch, or tap it, for its five nearest words with their
cosines$and_truth.</span></li>
</ul>""")

RIGHT_BY_TRUTH = (
    "<strong>Light, bold, with a tick: the word is true of that patch.</strong> It names the "
    "thing there (kind, colour, size, or a phrase of these), or, where there is none, the "
    "background."
)
RIGHT_BY_CAPTION = (
    "<strong>Light, bold, with a tick: the word occurs in the picture’s caption.</strong> A rough "
    "sign only: captions leave most things out, and a word of the caption may stand on the wrong "
    "patch."
)
OUTLINE = "The orange line runs around the patches that an object covers; the rest is background."

DEFINITIONS = {
    "<var>X</var><sub>v</sub> (1)": "Visual tokens: what the projector makes of the vision "
    "encoder’s patch features and hands to the language model, one for each patch.",
    "Ψ (2)": "The language model’s input embeddings. A word of several tokens stands for their "
    "mean.",
    "Nearest word (4)": "The word <var>w</var> with the largest cosine between the visual token "
    "<var>x</var><sub>v</sub> and Ψ(<var>w</var>).",
    "Modality gap <var>D</var> (5)": "The Euclidean distance from a visual token to the closest "
    "word, averaged over the tokens. Lower is closer, as long as the tokens keep their length: "
    "tokens that grow longer than the embedding rows move away from every word, whatever they say.",
    "Gap between unit vectors": "The same distance after token and words are scaled to length 1: "
    "directions alone count, as for the nearest word. Lower is closer.",
    "Mean length": "The mean Euclidean length of the visual tokens, and of the embedding rows of "
    "the words’ tokens. Where the first grows, the modality gap grows with it.",
    "Caption loss <var>L</var><sub>g</sub> (12)": "The usual next-token loss on the caption, a "
    "mean over its tokens. Lower is better.",
    "TACS (14)": "Token alignment consistency: for every visual token the largest cosine to a "
    "token of the caption, the mean of the ten largest. Higher is closer.",
}
SEA_DEFINITIONS = {
    "Alignment loss <var>L</var><sub>a</sub> (11)": "Symmetric InfoNCE between the visual tokens "
    "of sampled patches and the words they were labelled with; cosines are divided by the "
    "temperature <var>τ</var>, which is learnt.",
    "Weight <var>λ</var> (13)": "The loss that is trained is <var>L</var> = <var>L</var><sub>g"
    "</sub> + <var>λ</var> · <var>L</var><sub>a</sub>.",
}


def what_it_is(names: tuple[str, str] | None) -> str:
    """Say what the page shows, to somebody who does not know.

    Args:
        names: what the run and the baseline are called, if there are two.
    """
    compare = ""
    if names is not None:
        run, baseline = (escape(name) for name in names)
        compare = COMPARE_RUNS.substitute(run=run, baseline=baseline)
    return WHAT.substitute(compare=compare)


def how_to_read(num_words: int, truth_known: bool) -> str:
    """Explain the grids, with sample patches."""
    outline = ""
    if truth_known:
        sample = Grid("", 1, [Cell("", 0.0, False, is_object=True)], None, 0.0)
        outline = f"<li>{_sample(outline_svg(sample))}<span>{OUTLINE}</span></li>"
    return LEGEND.substitute(
        right_cell=_sample(grid_cell(Cell("red ball", 0.6, True), 0, 0, "a right word")),
        other_cell=_sample(grid_cell(Cell("table", 0.3, False), 0, 0, "another word")),
        outline=outline,
        num_words=f"{num_words:,}",
        right=RIGHT_BY_TRUTH if truth_known else RIGHT_BY_CAPTION,
        not_right="true of the patch" if truth_known else "in the caption",
        and_truth=", and for what is true there" if truth_known else "",
    )


def _sample(drawing: str) -> str:
    return (
        f'<svg class="grid sample" viewBox="-6 -6 {UNIT + 12} {UNIT + 12}" aria-hidden="true">'
        f"{drawing}</svg>"
    )


def definitions(with_sea: bool) -> str:
    """Define the measures; the numbers are those of the SEA paper's equations."""
    entries = {**DEFINITIONS, **(SEA_DEFINITIONS if with_sea else {})}
    rows = "\n".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in entries.items())
    return (
        "<p>Numbers in brackets are equations of <cite>SEA: Supervised Embedding Alignment for "
        "Token-Level Visual-Textual Integration in MLLMs</cite> (arXiv 2408.11813).</p>\n"
        f'<dl class="facts">{rows}</dl>'
    )
