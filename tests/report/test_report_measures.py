import math
import re

import pytest
from report_world import LOG, training

from llava_sea.report.cells import Cell, Grid
from llava_sea.report.chart_svg import chart_svg, spread, thin, ticks, value_range
from llava_sea.report.measures import (
    MEASURES,
    Chart,
    Curve,
    Point,
    charts_of,
    has_alignment,
    lines_of,
    lines_of_pictures,
    number,
)
from llava_sea.report.table import table_html


def test_table_holds_first_value_and_last_up_to_the_step():
    whole = {line.key: (line.before, line.after) for line in lines_of(LOG, None)}
    assert whole["eval_lm_loss"] == (3.5, 2.25)
    assert whole["sea_loss"] == (1.9, 1.2)
    assert whole["eval_nearest_word_precision_objects"] == (0.025, 0.3)
    assert "sea_weight" not in whole
    early = {line.key: line for line in lines_of(LOG, 6)}
    assert early["eval_lm_loss"].after == 2.5 and early["eval_lm_loss"].after_step == 4
    assert early["lm_loss"].after == pytest.approx(2.4) and early["lm_loss"].before_step == 1


def test_plain_run_has_no_alignment():
    plain = [{k: v for k, v in row.items() if not k.startswith(("sea", "temp"))} for row in LOG]
    assert has_alignment(LOG) and not has_alignment(plain)
    names = [chart.measure.symbol for chart in charts_of(plain)]
    assert "L_g" in names and not {"L_a", "λ", "τ"} & set(names)
    assert {"L_a", "λ", "τ"} <= {chart.measure.symbol for chart in charts_of(LOG)}
    assert not {"sea_loss", "temperature"} & {line.key for line in lines_of(plain, None)}


def test_loss_of_llavas_own_trainer_is_the_caption_loss():
    (chart,) = charts_of([{"step": 1, "loss": 5.0}, {"step": 2, "loss": 4.0}])
    assert chart.measure.symbol == "L_g" and chart.curves[0].points == [
        Point(1, 5.0),
        Point(2, 4.0),
    ]
    assert charts_of([]) == [] and lines_of([], None) == []


def test_values_that_are_no_numbers():
    rows = [{**training(1), "lm_loss": math.nan}, {**training(2), "sea_loss": None}]
    charts = {chart.measure.symbol: chart for chart in charts_of(rows)}
    svg = chart_svg(charts["L_g"])
    assert "nan" not in svg.lower() and svg.count("<circle") == 1
    assert [p.step for p in charts["L_a"].curves[0].points] == [1]
    html = table_html(lines_of([rows[1], {**rows[0], "step": 3}], 3), "", 3)
    assert "not a number" in html


def test_table_says_what_is_better():
    html = table_html(lines_of(LOG, 8), "from <here>", 8)
    rows = dict(re.findall(r"<th>([^<]+?) <small>.*?(better|worse|verdict\"></td>)", html))
    assert rows["Caption loss, held out"] == "better"
    assert rows["Modality gap, held out"] == "better"
    assert rows["Temperature, training"].startswith("verdict")
    assert "+55.0 points" in html and "−1.250" in html and "from &lt;here&gt;" in html
    worse = table_html(
        lines_of([{"step": 0, "eval_tacs": 0.5}, {"step": 1, "eval_tacs": 0.4}], 1), "", 1
    )
    assert "worse" in worse


def test_a_gap_that_grew_with_the_lengths_stands_beside_them():
    keys = ("eval_gap", "eval_gap_unit", "eval_visual_length", "eval_embedding_length")
    log = [
        {"step": step, **dict(zip(keys, values, strict=True))}
        for step, values in ((0, (2.0, 1.3, 1.9, 0.9)), (8, (3.4, 1.1, 3.3, 0.9)))
    ]
    html = table_html(lines_of(log, 8), "", 8)
    rows = dict(re.findall(r"<th>([^<]+?) <small>.*?(better|worse|verdict\"></td>)", html))
    assert list(rows) == [
        "Modality gap, held out",
        "Gap between unit vectors, held out",
        "Mean length, visual tokens",
        "Mean length, embedding rows",
    ]
    assert rows["Gap between unit vectors, held out"] == "better"
    assert rows["Mean length, visual tokens"].startswith("verdict")
    charts = {chart.measure.name: chart for chart in charts_of(log)}
    assert [curve.label for curve in charts["Mean length"].curves] == [
        "visual tokens",
        "embedding rows",
    ]


def test_pictures_stand_in_for_a_run_that_measured_nothing():
    def grid(words_right, tacs, gap, *beside):
        cells = [Cell("w", 0.5, right) for right in words_right]
        return Grid("", 2, cells, tacs, gap, *beside)

    pictures = [
        [
            grid([1, 0, 0, 0], None, 2.0, (1.0, 0.5, 0.7)),
            grid([1, 1, 0, 0], 0.3, 1.0, (1.2, 8, 0.7)),
        ],
        [grid([0, 0, 0, 0], 0.1, 4.0, (1.4, 1.5, 0.7)), grid([1, 0, 0, 0], 0.5, 2.0, (1, 6, 0.7))],
    ]
    lines = {line.key: (line.before, line.after) for line in lines_of_pictures(pictures, True)}
    assert lines == {
        "eval_tacs": (0.1, 0.4),
        "eval_gap": (3.0, 1.5),
        "eval_gap_unit": (1.2, 1.1),
        "eval_visual_length": (1.0, 7.0),
        "eval_embedding_length": (0.7, 0.7),
        "eval_nearest_word_precision": (0.125, 0.375),
    }
    (only_after,) = lines_of_pictures([[grid([1, 0], None, 0.0)]], False)[1:]
    assert only_after.key == "eval_nearest_word_in_caption"
    assert (only_after.before, only_after.after) == (None, 0.5)


def test_curve_goes_through_its_points():
    chart = Chart(MEASURES[0], [Curve("x", [Point(0, 0.0), Point(10, 1.0), Point(20, 0.5)])])
    points = re.search(r'points="([^"]+)"', chart_svg(chart))[1]
    (x0, y0), (x1, y1), (x2, y2) = [map(float, p.split(",")) for p in points.split()]
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2) and x0 < x1
    assert y2 == pytest.approx((y0 + y1) / 2, abs=0.2) and y1 < y0  # upright axis grows upward


def test_gap_in_a_curve_breaks_its_line():
    values = [1.0, 2.0, math.nan, 3.0, 4.0]
    points = [Point(i, v) for i, v in enumerate(values)]
    assert chart_svg(Chart(MEASURES[0], [Curve("x", points)])).count("<polyline") == 2


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [2.0, 2.0, 2.0], [1e-8, 2e-8], [-3.0, 5.0]])
@pytest.mark.parametrize("from_zero", [True, False])
def test_axis_encloses_values_and_has_marks(values, from_zero):
    low, high = value_range(values, from_zero)
    assert low <= min(values) and max(values) <= high and low < high
    marks = ticks(low, high)
    assert len(marks) >= 2 and low <= marks[0] + 1e-12 and marks[-1] <= high + 1e-12


def test_many_points_are_averaged():
    points = [Point(i, float(i)) for i in range(1, 1001)]
    few = thin(points, 100)
    assert len(few) == 100 and few[0] == Point(10, 5.5) and few[-1] == Point(1000, 995.5)
    assert thin(points[:100], 100) == points[:100]


def test_marked_step_is_drawn_inside_the_run_only():
    chart = charts_of(LOG)[0]
    assert 'class="mark"' in chart_svg(chart, 4)
    assert 'class="mark"' not in chart_svg(chart, 8) and 'class="mark"' not in chart_svg(chart)


def test_labels_do_not_lie_on_each_other():
    moved = spread([50.0, 50.0, 10.0], apart=12.0)
    assert moved[2] == 10.0 and abs(moved[0] - moved[1]) >= 12.0


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
