"""Two runs side by side, by the command; what fits and what does not."""

import json
import re

import pytest
import torch
from PIL import Image
from report_world import GRID, argv, grids, make_baseline, make_world

from llava_sea.errors import UserError
from llava_sea.report.__main__ import main
from llava_sea.report.folder import open_run
from llava_sea.report.pair import names_of


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = make_world(tmp_path_factory.mktemp("pair"))
    return {**world, "baseline": make_baseline(world)}


@pytest.fixture(scope="module")
def page(world):
    return main(argv({**world, "output": world["run"].parent / "pair.html"})).read_text()


def alone(world, run, folder):
    """Return the last grid of each picture in a report of one run."""
    flags = {name: value for name, value in world.items() if name != "baseline"}
    path = main(argv({**flags, "run": run, "output": folder / "alone.html", "map_points": 0}))
    assert not path.with_name("alone_map.png").exists()
    shown = grids(path.read_text())
    return shown[len(shown) // 2 - 1 :: len(shown) // 2]


def test_both_runs_say_of_a_patch_what_each_says_alone(world, page, tmp_path):
    shown = grids(page)
    assert len(shown) == 4 and all(len(grid) == GRID * GRID for grid in shown)
    assert shown[0::2] == alone(world, world["baseline"], tmp_path)
    assert shown[1::2] == alone(world, world["run"], tmp_path)
    assert shown[0] != shown[1]
    heads = re.findall(r"<figcaption><b>(Plain LLaVA|SEA)</b><span>\d", page)
    assert heads == ["Plain LLaVA", "SEA"] * 2
    assert "What the patches say: plain LLaVA beside SEA" in page


def test_table_and_curves_hold_both(page):
    text = re.sub(r"<[^>]+>", "", page).replace("\u00a0", " ")
    assert "for 60.0 % of the held-out patches with SEA, and for 40.0 % with plain LLaVA" in text
    rows = page.split("<tbody>")[1].split("</tbody>")[0].split("</tr>")
    cells = [re.sub(r"<[^>]+>", " ", row).split() for row in rows]
    (loss,) = [row for row in cells if row[:4] == ["Caption", "loss,", "held", "out"]]
    assert loss[-6:] == ["3.500", "2.750", "2.250", "−0.500", "SEA", "better"]
    (alignment,) = [row for row in cells if row[:2] == ["Alignment", "loss,"]]
    assert alignment[-4:] == ["1.900", "–", "1.200", "–"]
    charts = {
        re.sub(r"<[^>]+>", "", head): svg
        for head, svg in re.findall(
            r"<figcaption>(<b>[^\n]*)</figcaption>\n(<svg class=\"chart\".*?</svg>)", page, re.S
        )
    }
    held_out = next(svg for head, svg in charts.items() if head.startswith("Caption loss, held"))
    assert "2.250<tspan" in held_out and ">SEA</tspan>" in held_out
    assert "2.750<tspan" in held_out and ">plain LLaVA</tspan>" in held_out
    weight = next(svg for head, svg in charts.items() if head.startswith("Alignment loss"))
    assert ">plain LLaVA</tspan>" not in weight


def test_page_needs_nothing_else_and_lists_what_differs(page, world):
    assert not re.search(r"https?:|\ssrc=|url\(|@import|<script|<link", page)
    assert "<dt>Differs: seed</dt><dd><code>1, beside it 2</code></dd>" in page
    assert "optim" not in page
    folder = world["run"].parent
    for name in ("pair_map.png", "pair_picture_1.png", "pair_curves.png"):
        assert Image.open(folder / name).width > 500


def test_pointing_at_a_patch_lists_its_nearest_words(page):
    lists = re.findall(r'<li tabindex="-1".*?</li>', page)
    assert len(lists) == 4 * GRID * GRID
    first_words = [word for grid in grids(page) for word, _ in grid]
    for entry, first in zip(lists, first_words, strict=True):
        words = re.findall(r"<i(?: class=y)?>(.*?)<b>(-?\d\.\d\d)</b>", entry)
        cosines = [float(cosine) for _, cosine in words]
        assert len(words) == 5 and words[0][0] == first
        assert cosines == sorted(cosines, reverse=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_name_or_path": "other/llm"}, r"another language model, other/llm there .*--model_name"),
        ({"mm_vision_tower": "other/tower"}, r"another vision tower, other/tower there .*--vision"),
        ({"mm_projector_type": "linear"}, "another projector, linear there and mlp2x_gelu here"),
        ({"mm_vision_select_layer": -1}, r"another layer of the tower .*, -1 there and -2 here"),
        ({"image_aspect_ratio": "pad"}, "another image_aspect_ratio, pad there and square here"),
    ],
)
def test_runs_that_do_not_fit_are_refused(world, tmp_path, change, message):
    config = json.loads((world["baseline"] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    (tmp_path / "mm_projector.bin").touch()
    with pytest.raises(UserError, match=rf"--baseline .* does not fit --run .*: {message}"):
        main(argv({**world, "baseline": tmp_path}))


def test_projector_of_another_width_is_refused(world, tmp_path):
    (tmp_path / "config.json").write_text((world["baseline"] / "config.json").read_text())
    state = torch.load(world["baseline"] / "mm_projector.bin")
    torch.save({name: tensor[:5] for name, tensor in state.items()}, tmp_path / "mm_projector.bin")
    with pytest.raises(UserError, match="trained for another vision tower or LLM"):
        main(argv({**world, "baseline": tmp_path}))


def test_model_that_moved_is_named_by_the_flag(world, tmp_path):
    config = json.loads((world["baseline"] / "config.json").read_text())
    moved = {**config, "_name_or_path": "/nowhere", "mm_vision_tower": "/nowhere"}
    (tmp_path / "config.json").write_text(json.dumps(moved))
    torch.save(torch.load(world["baseline"] / "mm_projector.bin"), tmp_path / "mm_projector.bin")
    flags = {
        "model_name_or_path": config["_name_or_path"],
        "vision_tower": config["mm_vision_tower"],
        "output": tmp_path / "x.html",
        "map_points": 0,
    }
    text = main(argv({**world, "baseline": tmp_path, **flags})).read_text()
    assert "no metrics.jsonl" in text and "The runs stand at different steps" in text
    assert len(grids(text)) == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"baseline": "none"}, "--baseline none: no such folder"),
        ({"map_points": -1}, "--map_points -1"),
    ],
)
def test_wrong_flags_are_named(world, flags, message):
    with pytest.raises(UserError, match=re.escape(message)):
        main(argv({**world, **flags}))


def test_a_run_is_no_baseline_of_itself(world):
    with pytest.raises(UserError, match="is --run itself"):
        main(argv({**world, "baseline": world["run"]}))


def test_runs_of_a_kind_are_called_by_their_folders(world, tmp_path):
    run, plain = open_run(world["run"]), open_run(world["baseline"])
    assert names_of(run, plain) == ("SEA", "plain LLaVA")
    assert names_of(plain, run) == ("plain LLaVA", "SEA")
    assert names_of(run, run)[0] == str(world["run"])
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "mm_projector.bin").touch()
    assert names_of(run, open_run(tmp_path)) == ("run", tmp_path.name)
