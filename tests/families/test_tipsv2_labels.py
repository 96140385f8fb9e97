"""Labels of TIPSv2: a planted model whose patches lie at their colour's word, and other grids."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from llava_sea.alignment import LabelStore
from llava_sea.alignment.transfer import grid_overlap, transfer_labels
from llava_sea.errors import UserError
from llava_sea.labels.extract import extract_labels
from llava_sea.labels.options import ExtractOptions, QualityOptions
from llava_sea.labels.quality_measures import measure_quality
from tests import towers, worlds

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
WORDS = [*COLOURS, "table", "sky", "dog", "tall", "road"]
GRID = 24


def planted(sign: int):
    """Return a TIPSv2 of 24 x 24 patches of 2 x 2 pixels: blocks add nothing, colours are words."""
    tokenizer = towers.tokenizer(WORDS)
    model = towers.tipsv2_model(2 * GRID, len(tokenizer), patch_size=2)
    directions = torch.linalg.qr(torch.randn(32, 32))[0] - 1 / 32
    vision, text = model.vision_model, model.text_model
    with torch.no_grad():
        for name, parameter in vision.named_parameters():
            if "layer_scale" in name or "position" in name or name.endswith("bias"):
                parameter.zero_()
        for layer in text.encoder.layers:
            for last in (layer.self_attn.out_proj, layer.mlp.fc2):
                last.weight.zero_(), last.bias.zero_()
        for norm in (vision.layernorm, text.final_layer_norm):
            norm.weight.fill_(1), norm.bias.zero_()
        seen = sign * directions[:3].T  # a patch's mean colour, weighted
        vision.embeddings.patch_embeddings.projection.weight.copy_(
            seen[:, :, None, None].expand(-1, -1, 2, 2)
        )
        for number, word in enumerate(WORDS):
            (token,) = tokenizer(word).input_ids
            text.embeddings.token_embedding.weight[token] = 10 * directions[number]
    return model, tokenizer


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Images of two colours side by side, their captions, the words, a model of either sign."""
    root = tmp_path_factory.mktemp("planted")
    (root / "images").mkdir()
    rng, records, halves = np.random.default_rng(0), [], {}
    for number in range(24):
        left, right = rng.choice(list(COLOURS), 2, replace=False)
        pixels = np.zeros((48, 48, 3), np.uint8)
        pixels[:, :24], pixels[:, 24:] = COLOURS[left], COLOURS[right]
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        halves[f"{number}.png"] = (left, right)
        records.append(worlds.record(number, f"{number}.png", "<image>", f"{left} and {right}"))
    (root / "data.json").write_text(json.dumps(records))
    lines = [f"{word}\t{9 - n}\tNN" for n, word in enumerate(WORDS)]
    (root / "words.tsv").write_text("\n".join(["word\tcount\tpos", *lines]) + "\n")
    for sign in (1, -1):
        torch.manual_seed(1)
        model, tokenizer = planted(sign)
        folder = towers.tipsv2(root / f"tipsv2{sign:+d}", 2 * GRID, model)
        tokenizer.save_pretrained(folder)
    return SimpleNamespace(root=root, halves=halves)


def options_of(world, sign: int, output, **changes) -> ExtractOptions:
    """Flags of an extraction: preset best."""
    return ExtractOptions(
        data_path=str(world.root / "data.json"),
        image_folder=str(world.root / "images"),
        vision_tower=str(world.root / f"tipsv2{sign:+d}"),
        words=str(world.root / "words.tsv"),
        output_dir=str(output),
        device="cpu",
        **changes,
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_planted_words_are_found_with_either_sign(world, tmp_path, sign):
    store = LabelStore(extract_labels(options_of(world, sign, tmp_path / "labels")))
    assert (store.manifest["sign"], store.grid) == (sign, (GRID, GRID))
    words = np.array(store.words())
    for name, (left, right) in world.halves.items():
        stored = store.read(name)
        best = words[stored.ids_PN[:, 0].reshape(store.grid)]
        assert (best[:, :12] == left).all() and (best[:, 12:] == right).all()
        assert (stored.scores_PN[:, 0] > 0.9).all()


def test_labels_are_carried_to_another_grid_and_trained_on(world, run, tiny, tmp_path):
    store = LabelStore(extract_labels(options_of(world, 1, tmp_path / "labels")))
    words, overlap = np.array(store.words()), grid_overlap(store.grid, (27, 27))
    for name, (left, right) in world.halves.items():
        stored = store.read(name)
        ids, _ = transfer_labels(stored.ids_PN, stored.scores_PN, overlap)
        best = words[ids[:, 0].reshape(27, 27)]
        assert (best[:, :13] == left).all() and (best[:, 14:] == right).all()
    tower = worlds.save_siglip(tmp_path / "siglip", 27 * 6)
    AutoTokenizer.from_pretrained(tiny.llm).save_pretrained(tmp_path / "llm")
    flags = {
        "model_name_or_path": worlds.save_llm(tmp_path / "llm", 360),
        "vision_tower": tower,
        "tune_mm_mlp_adapter": True,
        "data_path": world.root / "data.json",
        "image_folder": world.root / "images",
        "sea_labels": store.directory,
        "sea_preset": "best",
        "model_max_length": 900,
    }
    with pytest.raises(UserError, match="--sea_transfer True"):
        run("refused", **flags)
    _, row = run("stage1", **flags, sea_transfer=True)
    assert row["sea_loss"] > 0 and row["sea_pairs"] > 1


def test_features_that_it_does_not_have(world, tmp_path):
    with pytest.raises(UserError, match=r"--sea_features qq: .* take vanilla or value"):
        extract_labels(options_of(world, 1, tmp_path / "labels", sea_features="qq"))
    same = {name: getattr(options_of(world, 1, ""), name) for name in ("data_path", "words")}
    same |= {"image_folder": str(world.root / "images"), "device": "cpu"}
    rows = measure_quality(
        QualityOptions(
            **same, vision_tower=str(world.root / "tipsv2+1"), top_n=(1, 2), num_images=8
        ).resolved()
    )
    assert {row.features for row in rows} == {"value"}
