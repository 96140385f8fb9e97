import re
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from llava_sea.data.records import Record
from llava_sea.report.charts import STYLE
from llava_sea.report.grid import (
    MAX_LINE,
    Cell,
    Example,
    Grid,
    Near,
    grid_svg,
    letter_size,
    outline,
    wrap,
)
from llava_sea.report.measures import charts_of, lines_of
from llava_sea.report.page import Report, pngs, render
from llava_sea.report.reading import as_seen
from tests.report.report_world import LOG, token_map

NASTY = "<script>alert('x')</script> & \"q\" {{ title }}"


def cell(word="w", right=False, is_object=None):
    return Cell((Near(word, 0.25, right), Near("b", 0.1, False)), is_object, ("x", word))


def example(caption="a ball", words=("red ball", "table"), is_object=None):
    cells = [cell(words[i % len(words)], i % 2 == 0, is_object) for i in range(4)]
    grids = [Grid(label, 2, cells) for label in ("before training", "after 8 steps")]
    image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    return Example(Record(0, caption, caption, ()), caption, image, grids)


def report(**changes):
    values = dict(
        run_name="run",
        kind="stage 1 with SEA",
        step=8,
        lines=lines_of(LOG, 8),
        table_caption="from the log",
        charts=charts_of(LOG),
        examples=[example()],
        num_words=1234,
        truth_known=True,
        with_sea=True,
        facts=[("Run", "run")],
        token_map=token_map(),
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
        if tag not in ("meta", "br"):
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
    targets = [value for name, value in elements.attributes if name == "id"]
    assert {link[1:] for link in links if link.startswith("#")} <= {*targets}
    assert len(targets) == len({*targets})
    assert "prefers-color-scheme: dark" in html and "@media print" in html


def test_users_texts_are_escaped_and_not_filled_in():
    html = render(
        report(
            run_name=NASTY,
            kind=NASTY,
            examples=[example(NASTY, (NASTY, "<q>"))],
            facts=[(NASTY, NASTY)],
            notes=(NASTY,),
            table_caption=NASTY,
            names=(NASTY, "x"),
            baseline_lines=tuple(lines_of(LOG, 8)),
        )
    )
    elements = Elements(html)
    assert elements.open == [] and "script" not in elements.names
    assert "<script" not in html and "<q>" not in html and "{{ title }}" in html
    assert f"“{NASTY}”" in "".join(elements.texts["h3"])
    assert f"True here: x, {NASTY}" in "".join(elements.texts["em"])
    assert f"{NASTY} (cosine 0.25)" in "".join(elements.texts["title"])


def test_lead_and_table_tell_the_run():
    text = re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", "", render(report()))))
    assert "After 8 steps, the word nearest to a patch is right for 60.0 %" in text
    assert "before training it was 5.0 %" in text and "covers: 30.0 %, from 2.5 %" in text
    assert "1,234 most frequent" in text and "Alignment loss" in text
    assert "One t-SNE of 15 points" in text and "6 visual tokens for each of 2" in text
    assert "3 text tokens" in text and "first 5 held-out images" in text
    assert "25.0 % (chance 37.5 %)" in text and "75.0 % (chance 10.0 %)" in text


def test_plain_run_without_any_log():
    nothing = dict(lines=[], charts=[], with_sea=False, step=None, token_map=None)
    html = render(report(**nothing, notes=("no curves",)))
    assert not re.search("<table|InfoNCE|Over the steps|t-SNE", html)
    assert '<p class="note">no curves</p>' in html and Elements(html).open == []


def test_without_truth_words_of_the_caption_are_marked():
    html = render(report(truth_known=False))
    assert "2 of 4 in the caption" in html and "occurs in the image’s caption" in html
    html = render(report(examples=[example(is_object=True)]))
    assert "2 of 4 right (50 %), 2 of 4 on objects" in html and "on background" not in html


def test_right_words_differ_by_more_than_colour():
    text = grid_svg(example().grids[0], "image-1", "true word")
    right, other = (
        re.findall(f'<g class="{name}">.*?</g>', text, re.S) for name in ("right", "other")
    )
    assert all("<path" in cell for cell in right) and not any("<path" in cell for cell in other)
    rules = dict(re.findall(r"(g\.\w+ (?:rect|text)) \{ fill: #(\w+)", STYLE))
    light = {name: int((code * 2)[:2], 16) / 255 for name, code in rules.items()}
    assert light["g.right rect"] > 0.9 and light["g.right text"] < 0.1
    assert light["g.other rect"] < 0.1 and light["g.other text"] == 1.0


def test_line_runs_around_objects_alone():
    lines = outline(Grid("", 3, [cell(is_object=i in (0, 1, 8)) for i in range(9)]))
    assert len(lines) == len(set(lines)) == 6 + 4
    assert ((1, 0), (1, 1)) not in lines and ((2, 0), (2, 1)) in lines
    assert "outline" not in grid_svg(example().grids[0], "i", "r")
    assert grid_svg(example(is_object=True).grids[0], "i", "r").count('class="outline"') == 1


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


def test_pngs_take_any_text():
    shown = example("$\\frac{ & 犬", ("$x_{", "犬"))
    found = pngs(report(examples=[shown], charts=charts_of(LOG)[:1]))
    assert list(found) == ["image_1", "chart_1", "map_1", "map_2", "map_3"]
    assert all(png.startswith(b"\x89PNG") for png in found.values())
