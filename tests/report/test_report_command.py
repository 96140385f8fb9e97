"""The report of one run and of two, by the command."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPVisionModel, LlamaForCausalLM

from llava_sea.data.images import ImageTransform
from llava_sea.data.records import Record
from llava_sea.errors import UserError
from llava_sea.labels.occurrence import Truth
from llava_sea.report.__main__ import main
from llava_sea.report.measures import number
from llava_sea.report.reading import PatchReader
from llava_sea.report.runs import names_of, open_run
from tests.report.report_world import GRID, WORDS, grids, write_log
from tests.worlds import command_line

QUICK = {"map_points": 0, "num_images": 1}


def read(world, image, projector):
    """With no code of the package but the image transform: an image's tokens, words and rows."""
    folder = world["run"].parent
    tower = CLIPVisionModel.from_pretrained(folder / "tower")
    table = LlamaForCausalLM.from_pretrained(folder / "llm").get_input_embeddings().weight.detach()
    tokenizer = AutoTokenizer.from_pretrained(folder / "llm")
    pixels = ImageTransform.from_pretrained(str(folder / "tower"), "square")(
        Image.open(folder / "images" / image).convert("RGB")
    )
    ids = {word: tokenizer(word)["input_ids"] for word in WORDS if word != "qqq"}
    with torch.no_grad():
        hidden = tower(pixels[None], output_hidden_states=True).hidden_states[-2][0, 1:]
        state = torch.load(world["run"] / projector)
        w = {key.removeprefix("model.mm_projector."): value for key, value in state.items()}
        inner = torch.nn.functional.gelu(hidden @ w["0.weight"].T + w["0.bias"])
        visual = inner @ w["2.weight"].T + w["2.bias"]
    words = {word: table[ids[word]].mean(0) for word in ids}
    return visual, words, table[sorted({token for tokens in ids.values() for token in tokens})]


def nearest(world, image, projector):
    """Eq. 4: the words of an image."""
    visual, words, _ = read(world, image, projector)
    means = torch.stack(list(words.values()))
    cosine = torch.cosine_similarity(visual[:, None], means[None], dim=2)
    return [list(words)[i] for i in cosine.argmax(dim=1).tolist()]


def test_words_are_the_nearest_ones(world, page):
    shown = grids(page)
    captions = [{"w0", "w1", "w2", "w1 w2"}, {"w1", "w2", "w1 w2"}]
    assert shown == [
        [(word, word in caption) for word in nearest(world, image, projector)]
        for image, caption in zip(("0.png", "1.png"), captions, strict=True)
        for projector in ("mm_projector_initial.bin", "mm_projector.bin")
    ]
    assert shown[0] != shown[1]


def test_images_may_lie_in_the_data_file(world, page, tmp_path):
    records = json.loads(world["data_path"].read_text())
    for record in records:
        name = record.get("image")
        record["image"] = name and {"bytes": (world["image_folder"] / name).read_bytes()}
    path = tmp_path / "heldout.parquet"
    pq.write_table(pa.Table.from_pylist(records), path)
    flags = {**world, **QUICK, "data_path": path, "output": tmp_path / "report.html"}
    assert grids(main(command_line(flags)).read_text()) == grids(page)[:2]


def test_page_holds_what_it_was_made_from(world, page):
    assert "&lt;b&gt;a&lt;/b&gt; &amp; w0, w1 w2" in page and "<b>a</b>" not in page
    text = re.sub(r"<[^>]+>", "", page)
    assert "after 8 steps" in text and "stage 1 with SEA" in text
    assert f"{len(WORDS) - 1} of {len(WORDS)} entries" in text
    assert "1 that the tokenizer cannot write are left out" in text
    assert not list(world["run"].glob("*.png"))


def test_truth_decides_what_is_right(world, tmp_path):
    words = nearest(world, "0.png", "mm_projector.bin")
    truth = {
        "grid": [GRID, GRID],
        "words_sets": [[words[0]], ["other"]],
        "images": {f"{i}.png": [0] + [1] * 8 for i in range(2)},
        "objects": {f"{i}.png": "1" + "0" * 8 for i in range(2)},
    }
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    flags = {**world, "truth": path, "output": tmp_path / "made" / "it.html", "num_images": 1}
    page = main(command_line(flags)).read_text()
    after = grids(page)[1]
    assert after[0] == (words[0], True) and not any(right for _, right in after[1:])
    assert "1 of 9 right (11 %), 1 of 1 on objects, 0 of 8 on background" in page
    path.write_text("{}")
    with pytest.raises(UserError, match=r"--truth .*truth\.json"):
        main(command_line(flags))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["images"].pop("0.png"),
        lambda t: t["images"]["0.png"].append(1),
        lambda t: t["images"]["0.png"].pop(),
        lambda t: t["objects"].pop("0.png"),
    ],
)
def test_truth_that_does_not_know_each_patch_is_refused(tmp_path, change):
    truth = {"grid": [3, 3], "words_sets": [["a"]], "images": {"0.png": [0] * 9}}
    truth["objects"] = {"0.png": "1" * 9}
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    nothing = [None] * 4
    reader = PatchReader(*nothing, "", (3, 3), Truth(path))
    reader.check_truth([Record(0, 0, "0.png", ())])
    change(truth)
    path.write_text(json.dumps(truth))
    reader = PatchReader(*nothing, "", (3, 3), Truth(path, "--truth"))
    with pytest.raises(UserError, match=r"--truth .*0\.png"):
        reader.check_truth([Record(0, 0, "0.png", ())])


def test_checkpoint_and_a_short_word_list(world, tmp_path):
    root = tmp_path / "run"
    checkpoint = root / "checkpoint-4"
    checkpoint.mkdir(parents=True)
    (root / "config.json").write_text((world["run"] / "config.json").read_text())
    write_log(root, [{"step": step, "lm_loss": 3 - step / 10} for step in range(9)])
    state = torch.load(world["run"] / "mm_projector.bin")
    torch.save({k: v.bfloat16() for k, v in state.items()}, checkpoint / "mm_projector.bin")
    (checkpoint / "checksums.json").write_text("{}")
    flags = {**world, **QUICK, "run": checkpoint, "num_words": 2}
    with pytest.raises(UserError, match=r"--output .*checkpoint"):
        main(command_line({**flags, "output": checkpoint / "report.html"}))
    path = main([*command_line(flags), "--png"])
    assert path == root / "report-checkpoint-4.html"
    pngs = sorted(root.glob("*.png"))
    assert [png.stem for png in pngs] == [f"{path.stem}_chart_1", f"{path.stem}_image_1"]
    assert all(Image.open(png).width > 500 for png in pngs)
    page = path.read_text()
    assert {word for grid in grids(page) for word, _ in grid} <= set(WORDS[:2])
    assert "The dotted line is step 4" in page and "After 4 steps" in page


def test_projector_of_unknown_origin_is_measured_on_the_images(world, tmp_path):
    state = torch.load(world["run"] / "mm_projector_initial.bin")
    torch.save(state, tmp_path / "mine.bin")
    flags = {**world, **QUICK, "projector": tmp_path / "mine.bin", "output": tmp_path / "x.html"}
    page = main(command_line(flags)).read_text()
    shown = grids(page)
    assert shown[0] == shown[1]
    table = page.split("<tbody>")[1].split("</tbody>")[0]
    assert "of the patches shown below" in page and "60.0" in page and "60.0" not in table
    visual, words, rows = read(world, "0.png", "mm_projector_initial.bin")
    unit = [torch.nn.functional.normalize(v) for v in (visual, torch.stack(list(words.values())))]
    gap = torch.cdist(*unit).min(1).values
    for value in (visual.norm(dim=1), rows.norm(dim=1), gap):
        assert f'<span class="after">{number(value.mean().item())}</span>' in table
    assert "Mean length, embedding rows" in table and "Gap between unit vectors" in table


def test_both_runs_say_of_a_patch_what_each_says_alone(pair, pair_page):
    shown = grids(pair_page)
    expected = [
        nearest({**pair, "run": pair[run]}, f"{image}.png", "mm_projector.bin")
        for image in range(2)
        for run in ("baseline", "run")
    ]
    assert [[word for word, _ in grid] for grid in shown] == expected
    assert shown[0] != shown[1]
    heads = re.findall(r"<figcaption><b>(Plain LLaVA|SEA)</b><span>\d", pair_page)
    assert heads == ["Plain LLaVA", "SEA"] * 2
    assert "What the patches say: plain LLaVA beside SEA" in pair_page


def test_table_and_curves_hold_both(pair_page):
    text = re.sub(r"<[^>]+>|\s+", " ", pair_page).replace("\u00a0", " ")
    text = re.sub(" +", " ", text)
    assert "for 60.0 % of the held-out patches with SEA, and for 40.0 % with plain LLaVA" in text
    rows = pair_page.split("<tbody>")[1].split("</tbody>")[0].split("</tr>")
    cells = [re.sub(r"<[^>]+>", " ", row).split() for row in rows]
    (loss,) = [row for row in cells if row[:4] == ["Caption", "loss,", "held", "out"]]
    assert loss[-6:] == ["3.500", "2.750", "2.250", "−0.500", "SEA", "better"]
    (alignment,) = [row for row in cells if row[:2] == ["Alignment", "loss,"]]
    assert alignment[-4:] == ["1.900", "–", "1.200", "–"]
    charts = dict(
        re.findall(
            r'<svg class="chart"[^>]*aria-label="(.*?) over the steps.*?>(.*?)</svg>',
            pair_page,
            re.S,
        )
    )
    held_out = charts["Caption loss, held out"]
    assert all(f">{text}</text>" in held_out for text in ("2.250", "SEA", "2.750", "plain LLaVA"))
    assert ">plain LLaVA</text>" not in charts["Alignment loss, training"]


def test_page_of_two_lists_what_differs(pair_page):
    assert not re.search(r"https?:|\ssrc=|url\(|@import|<script|<link", pair_page)
    assert "<dt>Differs: seed</dt><dd><code>1, beside it 2</code></dd>" in pair_page
    assert "optim" not in pair_page


def test_pointing_at_a_patch_lists_its_nearest_words(pair_page):
    lists = re.findall(r'<li tabindex="-1".*?</li>', pair_page, re.S)
    first_words = [word for grid in grids(pair_page) for word, _ in grid]
    for entry, first in zip(lists, first_words, strict=True):
        words = re.findall(r"<i(?: class=y)?>(.*?)<b>(-?\d\.\d\d)</b>", entry)
        cosines = [float(cosine) for _, cosine in words]
        assert len(words) == 5 and words[0][0] == first
        assert cosines == sorted(cosines, reverse=True)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"vision_tower": "./none"}, "--vision_tower ./none"),
        ({"model_name_or_path": "./none"}, "--model_name_or_path ./none"),
        ({"words": "none.tsv"}, "none.tsv"),
        ({"data_path": "none.json"}, "none.json"),
        ({"image_folder": "none"}, "record 'r0': none/0.png"),
        ({"output": "."}, "--output ."),
        ({"baseline": "none"}, "--baseline none"),
    ],
)
def test_wrong_flags_are_named(world, flags, named):
    with pytest.raises(UserError, match=re.escape(named)):
        main(command_line({**world, **flags}))


def test_a_file_that_is_no_report_is_left(world, tmp_path):
    path = tmp_path / "x.html"
    path.write_text("<html>my thesis</html>")
    for output, message in ((path, "something else than a report"), (path / "x", "is a file, no")):
        with pytest.raises(UserError, match=message) as caught:
            main(command_line({**world, "output": output}))
        assert str(caught.value).startswith("--output ")
    assert path.read_text() == "<html>my thesis</html>"


def copy_of(baseline, folder, **config):
    """Write the baseline's config, changed, and an empty projector."""
    whole = json.loads((baseline / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**whole, **config}))
    (folder / "mm_projector.bin").touch()
    return folder


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"_name_or_path": "other/llm"}, "language model, other/llm .*--model_name_or_path"),
        ({"mm_vision_tower": "other/tower"}, "vision tower, other/tower .*--vision_tower"),
        ({"mm_projector_type": "linear"}, "projector, linear .*mlp2x_gelu"),
        ({"mm_vision_select_layer": -1}, "mm_vision_select_layer.*, -1 .*-2"),
        ({"image_aspect_ratio": "pad"}, "image_aspect_ratio, pad .*square"),
    ],
)
def test_runs_that_do_not_fit_are_refused(pair, tmp_path, change, named):
    other = copy_of(pair["baseline"], tmp_path, **change)
    with pytest.raises(UserError, match=rf"--baseline .* --run .*{named}"):
        main(command_line({**pair, "baseline": other}))


def test_projector_of_another_width_is_refused(pair, tmp_path):
    other = copy_of(pair["baseline"], tmp_path)
    state = torch.load(pair["baseline"] / "mm_projector.bin")
    torch.save({name: tensor[:5] for name, tensor in state.items()}, other / "mm_projector.bin")
    with pytest.raises(UserError, match=r"mm_projector\.bin.*trained for another"):
        main(command_line({**pair, **QUICK, "baseline": other}))


def test_model_that_moved_is_named_by_the_flag(pair, tmp_path):
    config = json.loads((pair["baseline"] / "config.json").read_text())
    moved = {"_name_or_path": "/nowhere", "mm_vision_tower": "/nowhere"}
    other = copy_of(pair["baseline"], tmp_path, **moved)
    torch.save(torch.load(pair["baseline"] / "mm_projector.bin"), other / "mm_projector.bin")
    flags = {
        "baseline": other,
        "model_name_or_path": config["_name_or_path"],
        "vision_tower": config["mm_vision_tower"],
        "output": tmp_path / "x.html",
    }
    text = main(command_line({**pair, **QUICK, **flags})).read_text()
    assert "no metrics.jsonl" in text and "The runs stand at different steps" in text
    assert len(grids(text)) == 2


def test_names_of_two_runs(pair, tmp_path):
    run, plain = open_run(pair["run"]), open_run(pair["baseline"])
    assert names_of(run, plain) == ("SEA", "plain LLaVA")
    assert names_of(plain, run) == ("plain LLaVA", "SEA")
    assert names_of(run, run)[0] == str(pair["run"])
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "mm_projector.bin").touch()
    assert names_of(run, open_run(tmp_path)) == ("run", tmp_path.name)
    with pytest.raises(UserError, match=r"--baseline .* --run itself"):
        main(command_line({**pair, "baseline": pair["run"]}))


def test_config_that_names_no_llm(world, tmp_path):
    run = copy_of(world["run"], tmp_path, _name_or_path="")
    with pytest.raises(UserError, match=r"'_name_or_path'.*--model_name_or_path"):
        main(command_line({**world, "run": run}))
