import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from report_world import LOG

from llava_sea.data.records import Record
from llava_sea.report.cells import Cell, Grid, Near, Picture
from llava_sea.report.grid_svg import MAX_LINE, grid_svg, letter_size, outline_lines, wrap
from llava_sea.report.measures import charts_of, lines_of
from llava_sea.report.page import Report, render
from llava_sea.report.pngs import curves_png, picture_png
from llava_sea.report.reading import as_seen
from llava_sea.report.style import STYLE

NASTY = "<script>alert('x')</script> & \"q\" $1 ${title}"


def picture(caption="a ball", words=("red ball", "table"), columns=2, is_object=None):
    cells = [Cell(words[i % len(words)], 0.25, i % 2 == 0, is_object) for i in range(columns**2)]
    grids = [
        Grid(label, columns, cells, 0.1, 2.0) for label in ("before training", "after 8 steps")
    ]
    image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    return Picture(Record(0, caption, caption, ()), caption, image, grids)


def report(**changes):
    values = dict(
        run_name="run",
        kind="stage 1 with SEA",
        llm="llm",
        tower="tower",
        step=8,
        lines=lines_of(LOG, 8),
        table_caption="from the log",
        charts=charts_of(LOG),
        pictures=[picture()],
        num_words=1234,
        truth_known=True,
        with_sea=True,
        facts=[("Run", "run")],
    )
    return Report(**(values | changes))


class Elements(HTMLParser):
    """Collects what a browser would see: elements, attributes, the text of each element."""

    def __init__(self, html):
        super().__init__()
        self.open, self.names, self.attributes, self.texts = [], [], [], {}
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.names.append(tag)
        self.attributes += attributes
        if tag not in ("meta", "br", "use", "rect", "line", "polyline", "image"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.names.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


def test_page_is_well_formed_and_needs_nothing_else():
    html = render(report())
    elements = Elements(html)
    assert elements.open == []
    assert not {"script", "link", "iframe", "img"} & set(elements.names)
    assert not re.search(r"https?:|url\(|@import|\ssrc=", html)
    links = [value for name, value in elements.attributes if name.endswith("href")]
    assert links and all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    targets = {value for name, value in elements.attributes if name == "id"}
    assert {link[1:] for link in links if link.startswith("#")} <= targets
    assert "prefers-color-scheme: dark" in html and "@media print" in html


def test_users_texts_are_escaped_and_not_filled_in():
    html = render(
        report(
            run_name=NASTY,
            llm=NASTY,
            tower=NASTY,
            pictures=[picture(NASTY, (NASTY, "<i>"))],
            facts=[(NASTY, NASTY)],
            notes=(NASTY,),
            table_caption=NASTY,
        )
    )
    elements = Elements(html)
    assert elements.open == [] and "script" not in elements.names
    assert "<script" not in html and "<i>" not in html and "${title}" in html
    assert f"“{NASTY}”" in "".join(elements.texts["h3"])


def test_lead_and_table_tell_the_run():
    html = render(report())
    text = re.sub(r"<[^>]+>", "", html).replace("\u00a0", " ")
    assert "After 8 steps, the word nearest to a patch is right for 60.0 %" in text
    assert "before training it was 5.0 %" in text and "covers: 30.0 %, from 2.5 %" in text
    assert "1,234 most frequent" in text and "Alignment loss" in text


def test_plain_run_without_any_log():
    html = render(report(lines=[], charts=[], with_sea=False, step=None, notes=("no curves",)))
    assert "<table" not in html and "InfoNCE" not in html and "Over the steps" not in html
    assert '<p class="note">no curves</p>' in html and Elements(html).open == []


def test_without_truth_words_of_the_caption_are_marked():
    html = render(report(truth_known=False))
    assert "2 of 4 in the caption" in html and "occurs in the picture’s caption" in html
    html = render(report(pictures=[picture(is_object=True)]))
    assert "2 of 4 right (50 %), 2 of 4 on objects" in html and "on background" not in html


def test_grid_names_every_patch():
    svg = grid_svg(picture().grids[0], "picture-1", "title", "true word")
    assert svg.count('<g class="right">') == 2 and svg.count('<g class="other">') == 2
    assert "row 2, column 1: red ball (cosine 0.25), true word" in svg
    assert "row 1, column 2: table (cosine 0.25)</title>" in svg
    assert 'href="#picture-1"' in svg


def test_right_words_differ_by_more_than_colour():
    svg = grid_svg(picture().grids[0], "picture-1", "title", "true word")
    right, other = (
        re.findall(f'<g class="{name}">.*?</g>', svg, re.S) for name in ("right", "other")
    )
    assert all("<path" in cell for cell in right) and not any("<path" in cell for cell in other)
    rules = dict(re.findall(r"(g\.\w+ (?:rect|text)) \{ fill: #(\w+)", STYLE))
    light = {name: int((code * 2)[:2], 16) / 255 for name, code in rules.items()}
    assert light["g.right rect"] > 0.9 and light["g.right text"] < 0.1
    assert light["g.other rect"] < 0.1 and light["g.other text"] == 1.0


def test_line_runs_around_objects_alone():
    cells = [Cell("w", 0.5, False, i in (0, 1, 8)) for i in range(9)]
    lines = outline_lines(Grid("", 3, cells, None, 0.0))
    assert len(lines) == len(set(lines)) == 6 + 4
    assert ((1, 0), (1, 1)) not in lines and ((2, 0), (2, 1)) in lines
    assert "outline" not in grid_svg(picture().grids[0], "p", "t", "r")
    svg = grid_svg(picture(is_object=True).grids[0], "p", "t", "r")
    assert svg.count('class="outline"') == 1


def test_pointing_shows_words_and_truth_escaped():
    near = (Near(NASTY, 0.5, True), Near("b", 0.25, False))
    cell = Cell(NASTY, 0.5, True, True, near, ("x", NASTY))
    shown = picture()
    grids = [Grid("g", 1, [cell], 0.1, 2.0)]
    html = render(report(pictures=[Picture(shown.record, "c", shown.image, grids)]))
    elements = Elements(html)
    assert elements.open == [] and "<script" not in html
    assert f"True here: x, {NASTY}" in "".join(elements.texts["em"])
    assert "".join(elements.texts["i"]) == NASTY + "b"
    assert "row 1, column 1, an object" in html


@pytest.mark.parametrize(
    "word",
    ["a", "red ball", "uncharacteristically", "x" * 60, "mmmmmmmm", "犬", "a red ball in a box"],
)
def test_words_are_broken_to_fit_and_lose_nothing(word):
    lines = wrap(word)
    assert all(len(line) <= MAX_LINE for line in lines)
    assert "".join(lines).replace("-", "").replace(" ", "") == word.replace(" ", "")
    size = letter_size(lines)
    assert 0 < size * len(lines) <= 100 and letter_size(lines, bold=True) <= size


def test_as_seen_undoes_the_normalisation():
    raw = torch.randint(0, 256, (3, 4, 5))
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    pixels = (raw / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    seen = as_seen(pixels, {"mean": mean, "std": std, "rescale": 1 / 255})
    assert np.array_equal(np.asarray(seen), raw.permute(1, 2, 0).numpy())
    assert seen.size == (5, 4)
    plain = as_seen(raw.float(), {"mean": None, "std": None, "rescale": None})
    assert np.array_equal(np.asarray(plain), np.asarray(seen))


def test_pngs_take_any_text_and_value():
    rows = [*LOG, {"step": 9, "lm_loss": math.nan}]
    for png in (
        picture_png(picture("$\\frac{ & 犬", ("$x_{", "犬"))),
        curves_png(charts_of(rows), 4),
    ):
        assert png.startswith(b"\x89PNG")
