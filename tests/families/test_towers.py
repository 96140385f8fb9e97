"""Every kind of vision tower: both stages, written, read again, exported; with several LLMs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    LlavaForConditionalGeneration,
)

from llava_sea.check.__main__ import main as check
from llava_sea.conversation import get_template
from llava_sea.data.images import ImageTransform, load_image, patch_grid
from llava_sea.data.records import Turn
from llava_sea.data.tokenize import stop_ids, tokenize_prompt
from llava_sea.errors import UserError
from llava_sea.model.builder import build_llava, load_tower, num_patches
from llava_sea.model.export import main as export
from llava_sea.model.generate import generate
from llava_sea.model.load import load_llava
from llava_sea.model.stage1 import Stage1Model
from llava_sea.model.towers import TOWERS, prefix_tokens, tower_config
from llava_sea.report.__main__ import main as report
from tests import towers, worlds

# Kind -> tokens before the patches, grid; those with several are no stock llava's.
SHAPES = {
    "dinov2_with_registers": (3, (5, 5)),
    "dinov3": (5, (4, 6)),
    "aimv2": (0, (5, 5)),
    "metaclip_2": (1, (4, 4)),
    "tipsv2": (2, (4, 4)),
}
REGISTERS = [kind for kind, (prefix, _) in SHAPES.items() if prefix > 1]
SHAPE = worlds.SHAPE | {"num_hidden_layers": 2, "num_key_value_heads": 1, "vocab_size": 90}
DECODERS = {
    "llama": {},
    "qwen3": {"head_dim": 16},
    "gemma3_text": {"head_dim": 16},
    "smollm3": {"pad_token_id": 0},
    "olmo2": {},
}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Return the folder of a kind of tower, written once."""
    made: dict[str, Path] = {}

    def find(kind: str) -> Path:
        if kind not in made:
            torch.manual_seed(7)
            made[kind] = towers.KINDS[kind](tmp_path_factory.mktemp(kind))
        return made[kind]

    return find


@pytest.fixture(scope="module")
def llm_of(tmp_path_factory):
    """Return the folder of a decoder without a tokenizer, written once."""
    made: dict[str, Path] = {}

    def find(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            config = AutoConfig.for_model(kind, **SHAPE | DECODERS[kind])
            AutoModelForCausalLM.from_config(config).save_pretrained(made[kind])
        return made[kind]

    return find


def test_the_table_holds_every_kind_that_is_tested():
    assert set(SHAPES) | {"clip", "siglip", "dinov2"} == set(towers.KINDS)
    assert len(TOWERS) == len(towers.KINDS) - 1  # a MetaCLIP 2 is a CLIP


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", towers.KINDS)
def test_tower_with_decoder(folder_of, llm_of, kind, decoder):
    folder = folder_of(kind)
    model = Stage1Model(build_llava(str(llm_of(decoder)), str(folder)))
    config, vision = model.config, model.config.vision_config
    prefix, grid = SHAPES.get(kind, (int(kind != "siglip"), (4, 4)))
    assert (prefix_tokens(vision), patch_grid(vision)) == (prefix, grid)
    count = grid[0] * grid[1]
    assert num_patches(vision) == config.image_seq_length == count
    pixels = torch.rand(1, 3, grid[0] * 6, grid[1] * 6)
    # The patches are the last tokens of the hidden state before the last layer.
    hidden = model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
    assert hidden.shape[1] == prefix + count
    visual = model.project(pixels)
    torch.testing.assert_close(visual, model.projector(hidden[:, -count:]), rtol=0, atol=1e-5)
    ids = torch.arange(count + 6)[None] % 80
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[0, 1 : 1 + count] = True
    labels = torch.where(mask, -100, ids)
    losses = model(ids, torch.ones_like(ids), labels, mask, pixels)
    losses.lm_loss_sum.backward()
    assert all(p.grad.abs().sum() > 0 for p in model.projector.parameters())


@pytest.mark.parametrize(
    ("kind", "feature"),
    [
        pytest.param(kind, feature, marks=[pytest.mark.slow] * (kind in later))
        for feature, kinds, later in (
            ("patch", SHAPES, ["dinov2_with_registers", "metaclip_2"]),
            ("cls_patch", REGISTERS, ["dinov2_with_registers", "dinov3"]),
        )
        for kind in kinds
    ],
)
def test_both_stages_out_in_and_exported(
    run, tiny, tiny_labels, tiny_siglip_labels, folder_of, tmp_path, capsys, kind, feature
):
    prefix, grid = SHAPES[kind]
    names = [record["image"] for record in tiny.records]
    data = [
        worlds.record(0, names[0], "<image>\nWhat is it?", "a ball"),
        worlds.record(1, names[1:3], "first: <image> second: <image> same?", "no"),
        worlds.record(2, None, "Say red.", "red"),
        worlds.record(3, names[3], "<image>\nColour?", "red"),
    ]
    (tmp_path / "finetune.json").write_text(json.dumps(data))
    parts = {
        "model_name_or_path": tiny.llm,
        "vision_tower": folder_of(kind),
        "mm_vision_select_feature": feature,
    }
    cuts = "shortest_edge" in (folder_of(kind) / "preprocessor_config.json").read_text()
    captions = parts | {
        "version": "plain",
        "data_path": tiny.data,
        "sea_labels": tiny_labels if cuts else tiny_siglip_labels,
        "sea_transfer": True,
    }
    more = {"image_folder": tiny.images, "tune_mm_mlp_adapter": True}
    assert check(worlds.command_line(captions | more)) == 0
    stage1, row = run("stage1", **captions, tune_mm_mlp_adapter=True, sea_eval_data=tiny.heldout)
    assert row["lm_loss"] > 0 and row["sea_loss"] > 0 and row["sea_pairs"] > 1
    is_stock = prefix < 2 or feature == "cls_patch"
    assert is_stock != ("transformers and vLLM refuse" in capsys.readouterr().out)
    if kind == "dinov3":
        shown = {"run": stage1, "words": tiny.words, "data_path": tiny.heldout, "num_images": 1}
        report(worlds.command_line(shown | {"image_folder": tiny.images, "map_points": 0}))
    stage2, row = run(
        "stage2",
        **parts,
        version="v1",
        pretrain_mm_mlp_adapter=stage1 / "mm_projector.bin",
        data_path=tmp_path / "finetune.json",
        unfreeze_mm_vision_tower=True,
    )
    assert 0 < row["lm_loss"] < 10

    loaded = load_llava(str(stage2))
    fresh = load_tower(str(folder_of(kind))).state_dict()
    for name, tensor in loaded.model.model.vision_tower.state_dict().items():
        torch.testing.assert_close(tensor, fresh[name], rtol=0, atol=0.02)  # a step of 0.01
    tokens = grid[0] * grid[1] + (prefix if feature == "cls_patch" else 0)
    assert loaded.model.config.image_seq_length == tokens
    template = get_template("v1")
    prompt = [Turn("human", "<image>\nWhat is it?")]
    ids, mask = tokenize_prompt(prompt, template, loaded.tokenizer, tokens)
    pixels = loaded.transform(load_image(tiny.images, names[0], 0).image)
    ends = stop_ids(template, loaded.tokenizer)
    answer = generate(
        loaded.model,
        torch.tensor([ids]),
        torch.tensor([mask]),
        pixels[None],
        max_new_tokens=4,
        stop_ids=ends,
    )[0].tolist()
    assert answer == worlds.greedy(loaded.model, ids, mask, pixels, len(answer))

    capsys.readouterr()
    flags = ["--model_path", str(stage2), "--output_dir"]
    export([*flags, str(tmp_path / "hf")])
    assert is_stock != ("transformers and vLLM refuse" in capsys.readouterr().out)
    stock = LlavaForConditionalGeneration.from_pretrained(tmp_path / "hf").eval()
    count = stock.config.image_token_index
    placed = torch.tensor([[count if place else i for i, place in zip(ids, mask, strict=True)]])
    if is_stock:
        rows = loaded.model.config.text_config.vocab_size
        with torch.no_grad():
            found = stock(input_ids=placed, pixel_values=pixels[None]).logits[0, -1, :rows]
        expected = worlds.logits(loaded.model, ids, mask, pixels)[-1]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    else:
        with pytest.raises(ValueError, match="do not match"):
            stock(input_ids=placed, pixel_values=pixels[None])
        with pytest.raises(UserError, match="cls_patch in both stages"):
            export([*flags, str(tmp_path / "lmms"), "--format", "lmms"])


@pytest.mark.parametrize("kind", ["metaclip_2", "tipsv2", "aimv2"])
def test_a_tower_of_a_pair_is_the_one_in_it(folder_of, tmp_path, kind):
    folder = towers.aimv2_pair(tmp_path) if kind == "aimv2" else folder_of(kind)
    pair = AutoModel.from_pretrained(folder).eval()
    assert pair.config.model_type == kind
    tower = load_tower(str(folder))
    ImageTransform.from_pretrained(str(folder), "pad").check_fits(tower.config)
    assert tower.config.model_type == f"{kind.replace('metaclip_2', 'clip')}_vision_model"
    pixels = torch.rand(2, 3, 24, 24)
    with torch.no_grad():
        found, expected = (one(pixels).last_hidden_state for one in (tower, pair.vision_model))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "siglip2"}, "scripts/fit_tower.py"),
        ({"architecture": "vit_pe_core_large_patch14_336", "pretrained_cfg": {}}, "read by timm"),
        ({"model_type": "perception_lm"}, "read by timm"),
        ({"model_type": "vit"}, "known are"),
    ],
    ids=["naflex", "perception encoder", "perception_lm", "vit"],
)
def test_other_kinds_are_refused_with_the_way_out(tmp_path, config, message):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        tower_config(str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("clip", {"image_size": -24}),
        ("dinov3", {"image_size": 0}),
        ("dinov3", {"image_size": 5}),
        ("tipsv2", {"patch_size": -6}),
        ("aimv2", {"patch_size": 0}),
        ("clip", {"image_size": None}),
        ("dinov2_with_registers", {"num_register_tokens": -1}),
    ],
)
def test_a_grid_without_patches_is_named(folder_of, tmp_path, kind, changes):
    settings = json.loads((folder_of(kind) / "config.json").read_text())
    (settings.get("vision_config") or settings).update(changes)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    ((_, value),) = changes.items()
    with pytest.raises(UserError, match=rf"--vision_tower {tmp_path}: its config.* {value} "):
        tower_config(str(tmp_path))
