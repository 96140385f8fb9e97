"""The report's fixed texts: how to read the pictures, and what each measure means."""

from __future__ import annotations

from string import Template

from llava_sea.report.grid_svg import UNIT, grid_cell
from llava_sea.report.reading import Cell

LEGEND = Template("""<div class="legend">
<svg class="grid" viewBox="0 0 $width $unit" role="img" aria-label="Two sample patches">$cells</svg>
<div>
<p>Each square is one patch of the picture, and the word in it is the word whose embedding lies
nearest to what the language model is handed for that patch, out of the $num_words most frequent
words and phrases of the list. $right The other words stand on the darkened picture.$compare</p>
<p>Hover over a patch for its row, column and cosine. Words can be selected and searched for, and
the drawings stay sharp when you zoom in.</p>
</div>
</div>""")

RIGHT_BY_TRUTH = (
    "<strong>On green, in bold: the word is true of that patch</strong>, that is, it names the "
    "thing that covers the patch (its kind, colour, size, or a phrase of these), or, where nothing "
    "does, the background."
)
RIGHT_BY_CAPTION = (
    "<strong>On green, in bold: the word occurs in the picture’s caption.</strong> That is a rough "
    "sign only: captions leave most things out, and a word of the caption may stand on the wrong "
    "patch."
)
COMPARE = (
    " The same picture is read twice: with the projector as it was before the first step, and as "
    "it is now."
)

DEFINITIONS = {
    "<var>X</var><sub>v</sub> (1)": "Visual tokens: what the projector makes of the vision "
    "encoder’s patch features and hands to the language model, one for each patch.",
    "Ψ (2)": "The language model’s input embeddings. A word of several tokens stands for their "
    "mean.",
    "Nearest word (4)": "The word <var>w</var> with the largest cosine between the visual token "
    "<var>x</var><sub>v</sub> and Ψ(<var>w</var>).",
    "Modality gap <var>D</var> (5)": "The Euclidean distance from a visual token to the closest "
    "word, averaged over the tokens. Lower is closer.",
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


def how_to_read(num_words: int, truth_known: bool, num_grids: int) -> str:
    """Explain the grids, with two sample patches."""
    cells = grid_cell(Cell("red ball", 0.6, True), 0, 0, "a right word")
    cells += grid_cell(Cell("table", 0.3, False), UNIT, 0, "another word")
    return LEGEND.substitute(
        width=2 * UNIT,
        unit=UNIT,
        cells=cells,
        num_words=f"{num_words:,}",
        right=RIGHT_BY_TRUTH if truth_known else RIGHT_BY_CAPTION,
        compare=COMPARE if num_grids > 1 else "",
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
