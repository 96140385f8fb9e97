import math
import re

import pytest

from llava_sea.report.charts import chart_figure, png, svg, thin
from llava_sea.report.grid import Grid
from llava_sea.report.measures import (
    MEASURES,
    Chart,
    Curve,
    Point,
    charts_of,
    lines_of,
    lines_of_grids,
    number,
    table_of,
)
from tests.report.report_world import LOG, training


def test_table_holds_first_value_and_last_up_to_the_step():
    whole = {line.key: (line.before.number, line.after.number) for line in lines_of(LOG, None)}
    assert whole["eval_lm_loss"] == (3.5, 2.25)
    assert whole["sea_loss"] == (1.9, 1.2)
    assert whole["eval_nearest_word_precision_objects"] == (0.025, 0.3)
    assert "sea_weight" not in whole
    early = {line.key: line for line in lines_of(LOG, 6)}
    assert early["eval_lm_loss"].after == (2.5, 4)
    assert early["lm_loss"].after.number == pytest.approx(2.4) and early["lm_loss"].before.step == 1


def test_plain_run_has_no_alignment():
    plain = [{k: v for k, v in row.items() if not k.startswith(("sea", "temp"))} for row in LOG]
    names = [chart.measure.symbol for chart in charts_of(plain)]
    assert "L_g" in names and not {"L_a", "λ", "τ"} & set(names)
    assert {"L_a", "λ", "τ"} <= {chart.measure.symbol for chart in charts_of(LOG)}
    assert not {"sea_loss", "temperature"} & {line.key for line in lines_of(plain, None)}


def draw(chart, step=None, named=False):
    return str(svg(chart_figure(chart, step, named=named), "chart", "title"))


def lines_in(text, colour="s0"):
    """Return the curves of a colour: lists of points; a gap begins a new list."""
    paths = re.findall(rf'<path d="([^"]*)" style="fill: none; stroke: var\(--{colour}\)', text)
    parts = [part.split("L") for path in paths for part in path.split("M") if part.strip()]
    return [[tuple(map(float, point.split())) for point in part] for part in parts]


def test_values_that_are_no_numbers():
    rows = [{**training(1), "lm_loss": math.nan}, {**training(2), "sea_loss": None}]
    charts = {chart.measure.symbol: chart for chart in charts_of(rows)}
    text = draw(charts["L_g"])
    assert "nan" not in text.lower() and text.count("<use") == 1
    assert "<title>step 2: 2.8</title>" in text
    assert [p.step for p in charts["L_a"].curves[0].points] == [1]
    table = table_of(lines_of([rows[1], {**rows[0], "step": 3}], 3), 3)
    assert "not a number" in table.rows[0].values


def test_table_says_what_is_better():
    rows = {row.line.key: row for row in table_of(lines_of(LOG, 8), 8).rows}
    assert rows["eval_lm_loss"][1:] == (["3.500", "2.250"], ["", ""], "−1.250", "better", True)
    assert rows["eval_gap"].verdict == "better" and rows["temperature"].verdict == ""
    assert rows["eval_nearest_word_precision"].change == "+55.0 points"
    (row,) = table_of(
        lines_of([{"step": 2, "eval_tacs": 0.5}, {"step": 3, "eval_tacs": 0.4}], 4), 4
    ).rows
    assert row.verdict == "worse" and row.notes == ["at step 2", "at step 3"]


def test_a_gap_that_grew_with_the_lengths_stands_beside_them():
    keys = ("eval_gap", "eval_gap_unit", "eval_visual_length", "eval_embedding_length")
    log = [
        {"step": step, **dict(zip(keys, values, strict=True))}
        for step, values in ((0, (2.0, 1.3, 1.9, 0.9)), (8, (3.4, 1.1, 3.3, 0.9)))
    ]
    rows = table_of(lines_of(log, 8), 8).rows
    assert [row.line.key for row in rows] == list(keys)
    assert [row.verdict for row in rows] == ["worse", "better", "", ""]
    charts = {chart.measure.name: chart for chart in charts_of(log)}
    curves = charts["Mean length"].curves
    assert [curve.label for curve in curves] == ["visual tokens", "embedding rows"]


def test_images_stand_in_for_a_run_that_measured_nothing():
    def grid(right, gap, **tacs):
        measured = {"eval_gap": gap, "eval_nearest_word_precision": right, **tacs}
        return Grid("", 2, [], measured)

    images = [
        [grid(0.25, 2.0), grid(0.5, 1.0, eval_tacs=0.3)],
        [grid(0.0, 4.0, eval_tacs=0.1), grid(0.25, 2.0, eval_tacs=0.5)],
    ]
    lines = {line.key: (line.before.number, line.after.number) for line in lines_of_grids(images)}
    assert lines == {
        "eval_tacs": (0.1, 0.4),
        "eval_gap": (3.0, 1.5),
        "eval_nearest_word_precision": (0.125, 0.375),
    }
    (only_after,) = lines_of_grids([[Grid("", 2, [], {"eval_gap": 0.5})]])
    assert (only_after.before, only_after.after) == (None, (0.5, None))


def test_curve_goes_through_its_points():
    chart = Chart(MEASURES[0], [Curve("x", [Point(0, 0.0), Point(10, 1.0), Point(20, 0.5)])])
    (((x0, y0), (x1, y1), (x2, y2)),) = lines_in(draw(chart))
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2) and x0 < x1
    assert y2 == pytest.approx((y0 + y1) / 2, abs=0.2) and y1 < y0  # upright axis grows upward


def test_gap_in_a_curve_breaks_its_line():
    values = [1.0, 2.0, math.nan, 3.0, 4.0]
    chart = Chart(MEASURES[0], [Curve("x", [Point(i, v) for i, v in enumerate(values)])])
    assert [len(line) for line in lines_in(draw(chart))] == [2, 2]


def test_names_and_last_values_stand_at_the_ends():
    curves = [Curve("<b> $x_{ 犬", [Point(0, 1.0), Point(9, 2.0)], 0)]
    curves.append(Curve("a name that is too long", [Point(0, 1.0), Point(9, 2.0)], 1))
    chart = Chart(MEASURES[0], curves)
    text = draw(chart, named=True)
    texts = re.findall(r">([^<>]+)</text>", text)
    assert texts[-4:] == ["2.000", "&lt;b&gt; $x_{ 犬", "2.000", "a name that is…"]
    heights = [float(y) for y in re.findall(r' y="([\d.]+)"[^>]*>2\.000</text>', text)]
    assert abs(heights[0] - heights[1]) >= 20
    assert png(chart_figure(chart), "$\\frac{ 犬").startswith(b"\x89PNG")


def test_drawing_has_the_pages_colours_and_ids_of_its_own():
    chart = charts_of(LOG)[0]
    text = draw(chart, 4)
    assert not re.search(r"#[0-9a-f]{6}\b(?!\w)", re.sub(r'href="[^"]*"', "", text))
    assert "DejaVu" not in text and "url(" not in text and "http" not in text
    other = str(svg(chart_figure(chart, 4), "chart", "another title"))
    assert not {*re.findall(' id="(.*?)"', text)} & {*re.findall(' id="(.*?)"', other)}
    assert draw(chart, 4) == text


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [2.0, 2.0], [1e-8, 2e-8], [0.0, 5.0]])
@pytest.mark.parametrize("measure", MEASURES[:3])
def test_axis_encloses_values_and_has_marks(values, measure):
    points = [Point(i, v) for i, v in enumerate(values)]
    (ax,) = chart_figure(Chart(measure, [Curve("x", points)])).axes
    low, high = ax.get_ylim()
    assert low <= min(values) and max(values) <= high and low < high
    assert (low == 0) == measure.from_zero
    assert len([tick for tick in ax.get_yticks() if low <= tick <= high]) >= 2


def test_many_points_are_averaged():
    points = [Point(i, float(i)) for i in range(1, 1001)]
    few = thin(points, 100)
    assert len(few) == 100 and few[0] == Point(10, 5.5) and few[-1] == Point(1000, 995.5)
    assert thin(points[:100], 100) == points[:100]


def test_marked_step_is_drawn_inside_the_run_only():
    chart = charts_of(LOG)[0]
    dashed = ["stroke-dasharray" in draw(chart, step) for step in (4, 8, None)]
    assert dashed == [True, False, False]


@pytest.mark.parametrize(
    ("value", "percent", "shown"),
    [
        (0.12345, True, "12.3\u00a0%"),
        (2.34567, False, "2.346"),
        (0.00012, False, "1.20e-04"),
        (688.81, False, "688.8"),
        (0.0, False, "0.000"),
        (math.inf, False, "infinite"),
    ],
)
def test_numbers_for_people(value, percent, shown):
    assert number(value, percent) == shown
