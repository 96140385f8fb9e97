import json
import re
import runpy
import sys

import pytest
import torch
from PIL import Image
from report_world import GRID, WORDS, argv, grids, make_world
from transformers import AutoTokenizer, CLIPVisionModel, LlamaForCausalLM

from llava_sea.data.images import ImageTransform
from llava_sea.errors import UserError
from llava_sea.report.__main__ import _write, main
from llava_sea.report.measures import number


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(world):
    return main(argv(world)).read_text()


def read(world, image, projector):
    """With no code of the package but the image transform: a picture's tokens, words and rows."""
    folder = world["run"].parent
    tower = CLIPVisionModel.from_pretrained(folder / "tower")
    table = LlamaForCausalLM.from_pretrained(folder / "llm").get_input_embeddings().weight.detach()
    tokenizer = AutoTokenizer.from_pretrained(folder / "llm")
    pixels = ImageTransform.from_pretrained(str(folder / "tower"), "square")(
        Image.open(folder / "images" / image).convert("RGB")
    )
    with torch.no_grad():
        hidden = tower(pixels[None], output_hidden_states=True).hidden_states[-2][0, 1:]
        state = torch.load(world["run"] / projector)
        w = {key.removeprefix("model.mm_projector."): value for key, value in state.items()}
        inner = torch.nn.functional.gelu(hidden @ w["0.weight"].T + w["0.bias"])
        visual = inner @ w["2.weight"].T + w["2.bias"]
    ids = {word: tokenizer(word)["input_ids"] for word in WORDS if word != "qqq"}
    words = {word: table[ids[word]].mean(0) for word in ids}
    return visual, words, table[sorted({token for tokens in ids.values() for token in tokens})]


def nearest(world, image, projector):
    """Eq. 4: the words of a picture."""
    visual, words, _ = read(world, image, projector)

    def cosine(token, word):
        return torch.cosine_similarity(token, words[word], dim=0).item()

    return [max(words, key=lambda word: cosine(token, word)) for token in visual]


def lengths_and_gap(world, projector):
    """The mean length of the tokens, of the rows, and the gap between unit vectors."""
    found = [read(world, image, projector) for image in ("0.png", "1.png")]
    visual, rows = torch.cat([one[0] for one in found]), found[0][2]
    unit = torch.nn.functional.normalize(torch.stack(list(found[0][1].values())))
    distance = torch.cdist(torch.nn.functional.normalize(visual), unit).min(1).values
    return [value.mean().item() for value in (visual.norm(dim=1), rows.norm(dim=1), distance)]


def test_words_are_the_nearest_ones(world, page):
    shown = grids(page)
    assert len(shown) == 4 and all(len(grid) == GRID * GRID for grid in shown)
    captions = [{"w0", "w1", "w2", "w1 w2"}, {"w1", "w2", "w1 w2"}]
    expected = [
        [(word, word in caption) for word in nearest(world, image, projector)]
        for image, caption in zip(("0.png", "1.png"), captions, strict=True)
        for projector in ("mm_projector_initial.bin", "mm_projector.bin")
    ]
    assert shown == expected
    assert shown[0] != shown[1]


def test_pngs_lie_beside_it(world, page):
    folder = world["run"]
    names = sorted(path.name for path in folder.glob("*.png"))
    assert names == [
        "report_curves.png",
        "report_map.png",
        "report_picture_1.png",
        "report_picture_2.png",
    ]
    assert all(Image.open(folder / name).width > 500 for name in names)


def test_page_holds_what_it_was_made_from(world, page):
    assert "&lt;b&gt;a&lt;/b&gt; &amp; w0, w1 w2" in page and "<b>a</b>" not in page
    assert not re.search(r"https?:|\ssrc=|url\(", page)
    text = re.sub(r"<[^>]+>", "", page)
    assert "after 8 steps" in text and "stage 1 with SEA" in text
    assert f"{len(WORDS) - 1} of {len(WORDS)} entries" in text
    assert "1 that the tokenizer cannot write are left out" in text


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
    page = main(argv(flags)).read_text()
    after = grids(page)[1]
    assert after[0] == (words[0], True) and not any(right for _, right in after[1:])
    assert "1 of 9 right (11 %), 1 of 1 on objects, 0 of 8 on background" in page

    for change, message in (
        (lambda t: t["images"].pop("0.png"), "knows nothing of the picture '0.png'"),
        (lambda t: t["images"]["0.png"].append(1), "more than the 9 patches"),
        (lambda t: t["images"]["0.png"].pop(), "fewer than the 9 patches"),
    ):
        changed = json.loads(json.dumps(truth))
        change(changed)
        path.write_text(json.dumps(changed))
        with pytest.raises(UserError, match=message):
            main(argv(flags))
    path.write_text("{}")
    with pytest.raises(UserError, match=r"--truth .*truth\.json"):
        main(argv(flags))


def test_checkpoint_of_a_plain_run_and_a_short_word_list(world, tmp_path):
    checkpoint = world["run"] / "checkpoint-4"
    checkpoint.mkdir()
    try:
        state = torch.load(world["run"] / "mm_projector.bin")
        torch.save({k: v.bfloat16() for k, v in state.items()}, checkpoint / "mm_projector.bin")
        (checkpoint / "checksums.json").write_text("{}")
        flags = {**world, "run": checkpoint, "num_words": 2}
        with pytest.raises(UserError, match="a checkpoint with a file more is refused"):
            main(argv({**flags, "output": checkpoint / "report.html"}))
        path = main(argv(flags))
        assert path == world["run"] / "report-checkpoint-4.html"
        page = path.read_text()
        assert {word for grid in grids(page) for word, _ in grid} <= set(WORDS[:2])
        assert "The dotted line is step 4" in page and "After 4 steps" in page
    finally:
        for path in checkpoint.iterdir():
            path.unlink()
        checkpoint.rmdir()


def test_projector_of_unknown_origin_is_measured_on_the_pictures(world, tmp_path):
    state = torch.load(world["run"] / "mm_projector_initial.bin")
    torch.save(state, tmp_path / "mine.bin")
    page = main(
        argv({**world, "projector": tmp_path / "mine.bin", "output": tmp_path / "x.html"})
    ).read_text()
    shown = grids(page)
    assert shown[0] == shown[1] and shown[2] == shown[3]
    table = page.split("<tbody>")[1].split("</tbody>")[0]
    assert "of the patches shown below" in page and "60.0" in page and "60.0" not in table
    for value in lengths_and_gap(world, "mm_projector_initial.bin"):
        assert f'<span class="after">{number(value)}</span>' in table
    assert "Mean length, embedding rows" in table and "Gap between unit vectors" in table


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_images": 0}, "--num_images 0"),
        ({"num_words": 0}, "--num_words 0"),
        ({"vision_tower": "./none"}, "--vision_tower ./none"),
        ({"model_name_or_path": "./none"}, "--model_name_or_path ./none: no such folder"),
        ({"words": "none.tsv"}, "none.tsv: cannot be read"),
        ({"data_path": "none.json"}, "none.json: cannot be read"),
        ({"image_folder": "none"}, "record 'r0': none/0.png"),
        ({"output": "."}, "--output .: is a folder"),
    ],
)
def test_wrong_flags_are_named(world, flags, message):
    with pytest.raises(UserError, match=re.escape(message)):
        main(argv({**world, **flags}))


def test_a_file_that_is_no_report_is_left(world, tmp_path, file_limit):
    path = tmp_path / "x.html"
    path.write_text("<html>my thesis</html>")
    for output, message in ((path, "something else than a report"), (path / "x", "is a file, no")):
        with pytest.raises(UserError, match=message) as caught:
            main(argv({**world, "output": output}))
        assert str(caught.value).startswith("--output ")
    assert path.read_text() == "<html>my thesis</html>"
    file_limit(100)
    with pytest.raises(UserError, match=rf"^{tmp_path}/y\.html: File too large"):
        _write({tmp_path / "y.html": bytes(101)})


def test_config_that_names_no_llm(world):
    path = world["run"] / "config.json"
    whole = path.read_text()
    path.write_text(json.dumps({**json.loads(whole), "_name_or_path": ""}))
    try:
        with pytest.raises(UserError, match=r"no '_name_or_path'.*--model_name_or_path"):
            main(argv(world))
    finally:
        path.write_text(whole)


def test_command_line_shows_errors_without_a_traceback(tmp_path, monkeypatch, capsys):
    flags = dict.fromkeys(("run", "data_path", "image_folder", "words"), tmp_path / "none")
    monkeypatch.setattr(sys, "argv", ["report", *argv(flags)])
    monkeypatch.delitem(sys.modules, "llava_sea.report.__main__")
    with pytest.raises(SystemExit) as exit:
        runpy.run_module("llava_sea.report", run_name="__main__")
    assert exit.value.code == 2
    assert capsys.readouterr().err == f"error: --run {tmp_path / 'none'}: no such folder\n"
