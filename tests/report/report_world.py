"""A run folder with two states of a projector, its tower, LLM, words and two images."""

import json
import re

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedTokenizerFast

from llava_sea.report.token_map import Source, TokenMap
from tests import worlds

NAMES = ["a", *(f"w{i}" for i in range(30))]
WORDS = [*NAMES[1:], "w1 w2", "w3 w4 w5", "qqq"]  # the tokenizer can't write the last
GRID = 3
WIDTH = 16


def make_world(folder):
    """Write everything below `folder`; return the flags of the report command."""
    torch.manual_seed(0)
    tower = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2)
    CLIPVisionModel(CLIPVisionConfig(**tower, image_size=8 * GRID, patch_size=8)).save_pretrained(
        folder / "tower"
    )
    worlds.clip_processor(8 * GRID).save_pretrained(folder / "tower")
    vocabulary = ["<unk>", "<s>", "</s>", *NAMES]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder / "llm")
    worlds.save_llm(folder / "llm", len(vocabulary), hidden_size=WIDTH)

    side, names = 8 * GRID, ["0.png", "1.png"]
    worlds.save_images(folder / "images", names, (side, side), np.random.default_rng(0))
    records = [worlds.record("text", None, "What is it?", "no image")]
    for i, name in enumerate(names):
        texts = "<image>\nWhat is it?", f"<b>a</b> & w{i}, w1 w2"
        records.append(worlds.record(f"r{i}", name, *texts))
    (folder / "heldout.json").write_text(json.dumps(records))
    rows = [f"{word}\t{count}\tNN" for count, word in zip(range(99, 0, -1), WORDS, strict=False)]
    (folder / "words.tsv").write_text("word\tcount\tpos\n" + "\n".join(rows) + "\n")

    run = folder / "run"
    run.mkdir()
    config = {
        "_name_or_path": str(folder / "llm"),
        "mm_vision_tower": str(folder / "tower"),
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "image_aspect_ratio": "square",
    }
    (run / "config.json").write_text(json.dumps(config))
    for name in ("mm_projector_initial.bin", "mm_projector.bin"):
        torch.save(projector(), run / name)
    write_log(run, LOG)
    return {
        "run": run,
        "data_path": folder / "heldout.json",
        "image_folder": folder / "images",
        "words": folder / "words.tsv",
    }


def projector():
    """Draw a projector under LLaVA's names."""
    shapes = {"0.weight": (WIDTH, 8), "0.bias": (WIDTH,)}
    shapes |= {"2.weight": (WIDTH, WIDTH), "2.bias": (WIDTH,)}
    return {f"model.mm_projector.{name}": torch.randn(s) for name, s in shapes.items()}


def make_baseline(world):
    """Write a plain LLaVA run beside the world's run, with a projector of its own."""
    folder = world["run"].with_name("plain")
    folder.mkdir()
    (folder / "config.json").write_text((world["run"] / "config.json").read_text())
    torch.manual_seed(1)
    torch.save(projector(), folder / "mm_projector.bin")
    rows = [
        {key: value for key, value in row.items() if not key.startswith(("sea_", "temp"))}
        for row in LOG
    ]
    write_log(folder, [{**row, **CHANGED} if row["step"] == 8 else row for row in rows])
    for run, seed in ((world["run"], "1"), (folder, "2")):
        (run / "run.json").write_text(json.dumps({"seed": seed, "optim": "adam"}))
    return folder


CHANGED = {"eval_lm_loss": 2.75, "eval_nearest_word_precision": 0.4}


def evaluation(step, loss, precision):
    return {
        "step": step,
        "eval_lm_loss": loss,
        "eval_tacs": 0.1 + step / 100,
        "eval_gap": 5.0 - step / 10,
        "eval_gap_unit": 1.3 - step / 100,
        "eval_visual_length": 4.0 + step,
        "eval_embedding_length": 1.0,
        "eval_nearest_word_precision": precision,
        "eval_nearest_word_precision_objects": precision / 2,
    }


def training(step):
    return {
        "step": step,
        "loss": 4.0 - step / 10,
        "lm_loss": 3.0 - step / 10,
        "sea_loss": 2.0 - step / 10,
        "sea_weight": 1.0 - step / 10,
        "temperature": 0.5 + step / 10,
    }


LOG = [
    evaluation(0, 3.5, 0.05),
    *map(training, range(1, 5)),
    evaluation(4, 2.5, 0.3),
    *map(training, range(5, 9)),
    evaluation(8, 2.25, 0.6),
]


def write_log(run, rows):
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def grids(page):
    """Return the words and the marks of every grid of the page, in its order."""
    found = re.findall(r'<svg class="grid"[^>]*role="group".*?</svg>', page, re.S)
    return [
        [
            (word, name == "right")
            for name, word in re.findall(
                r'<g class="(\w+)"><title>row \d+, column \d+: (.*?) \(cosine', grid
            )
        ]
        for grid in found
    ]


def token_map(**changes):
    rng = np.random.default_rng(0)
    sources = tuple(
        Source(name, rng.random((6, 2), dtype=np.float32), 0.25, 0.5, 0.75)
        for name in ("plain <LLaVA>", "SEA")
    )
    values = dict(
        sources=sources,
        words=("ball", "<i>", "grass"),
        words_T2=rng.random((3, 2), dtype=np.float32),
        groups=("ball", "ball", None, "grass", "hat", "grass"),
        shown_groups=("ball", "grass"),
        num_images=5,
        perplexity=4.7,
        words_by_chance=0.375,
        groups_by_chance=0.2,
        nouns_by_chance=0.1,
        num_nouns=2,
    )
    return TokenMap(**(values | changes))
