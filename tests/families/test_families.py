"""Every tower with every family of LLMs: both stages, written, read again, and an answer."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from llava_sea.conversation import get_template
from llava_sea.data.images import load_image
from llava_sea.data.records import Turn
from llava_sea.data.tokenize import stop_ids, tokenize_prompt
from llava_sea.model.generate import generate
from llava_sea.model.load import load_llava
from llava_sea.model.wrapped import WrappedLlava
from llava_sea.train.train import train

TEMPLATES = {
    "vicuna": "v1",
    "llama3": "llama_3",
    "gemma": "gemma",
    "phi3": "phi3",
    "mistral": "mistral",
    "qwen2": "qwen",
    "qwen3": "qwen",
}


@pytest.fixture
def run(tiny, zoo, monkeypatch, tmp_path):
    """Train with flags; returns the output folder and its rows of metrics."""

    def start(name: str, **flags):
        output = tmp_path / name
        values = {
            "image_folder": tiny.images,
            "output_dir": output,
            "per_device_train_batch_size": 4,
            "max_steps": 1,
            "learning_rate": 1e-2,
            "warmup_ratio": 0,
            "logging_steps": 1,
            "save_strategy": "no",
            "dataloader_num_workers": 0,
            "report_to": "none",
        } | flags
        argv = [part for key, value in values.items() for part in (f"--{key}", str(value))]
        monkeypatch.setattr(sys, "argv", ["train.py", *argv])
        train()
        lines = (output / "metrics.jsonl").read_text().splitlines()
        return SimpleNamespace(folder=output, rows=[json.loads(line) for line in lines])

    return start


@pytest.fixture(scope="module")
def conversations(tiny, tmp_path_factory):
    """One record with a picture, one with two, two of text alone."""
    names = [record["image"] for record in tiny.records]
    made = [
        (names[0], ["<image>\nWhat is it?", "a red ball", "Which colour?", "red"]),
        ([names[1], names[2]], ["first: <image> second: <image> same?", "no"]),
        (None, ["Say red.", "red"]),
        (None, ["Say a ball.", "a ball"]),
    ]
    records = []
    for number, (image, texts) in enumerate(made):
        turns = [{"from": ("human", "gpt")[n % 2], "value": t} for n, t in enumerate(texts)]
        records.append({"id": number, "conversations": turns} | ({"image": image} if image else {}))
    path = tmp_path_factory.mktemp("conversations") / "finetune.json"
    path.write_text(json.dumps(records))
    return path


TOWERS = ("clip", "siglip", "dinov2")
PAIRS = [
    # by default each family with one tower
    pytest.param(family, tower, marks=[pytest.mark.slow] * (number % 3 != place))
    for number, family in enumerate(TEMPLATES)
    for place, tower in enumerate(TOWERS)
]


@pytest.mark.parametrize(("family", "tower"), PAIRS)
def test_both_stages_out_in_and_an_answer(
    run, zoo, tiny, tiny_labels, tiny_siglip_labels, conversations, family, tower
):
    parts = {"model_name_or_path": zoo.llm(family), "vision_tower": zoo.tower(tower)}
    stage1 = run(
        "stage1",
        **parts,
        tune_mm_mlp_adapter=True,
        version="plain",
        data_path=tiny.data,
        sea_labels=tiny_siglip_labels if tower == "siglip" else tiny_labels,
        sea_transfer=tower == "dinov2",  # CLIP's 4 x 4 patches on DINOv2's 5 x 5
    )
    row = stage1.rows[0]
    assert row["lm_loss"] > 0 and row["sea_loss"] > 0 and row["sea_pairs"] > 1
    stage2 = run(
        "stage2",
        **parts,
        version=TEMPLATES[family],
        pretrain_mm_mlp_adapter=stage1.folder / "mm_projector.bin",
        data_path=conversations,
        image_aspect_ratio="pad",
    )
    assert 0 < stage2.rows[0]["lm_loss"] < 10

    loaded = load_llava(str(stage2.folder))
    assert loaded.version == TEMPLATES[family]
    assert loaded.image_aspect_ratio == "pad"
    template = get_template(TEMPLATES[family])
    prompt = [Turn("human", "<image>\nWhat is it?")]
    tokens = loaded.model.config.image_seq_length
    ids, mask = tokenize_prompt(prompt, template, loaded.tokenizer, tokens)
    picture = load_image(tiny.images, tiny.records[0]["image"], 0).image
    batch = {
        "input_ids": torch.tensor([ids]),
        "image_mask": torch.tensor([mask]),
        "pixel_values": loaded.transform(picture)[None],
    }
    answer = generate(
        loaded.model,
        **batch,
        max_new_tokens=6,
        temperature=0.0,
        stop_ids=stop_ids(template, loaded.tokenizer),
    )
    assert 1 <= answer.shape[1] <= 6
    assert answer[0].tolist() == greedy(loaded.model, batch, answer.shape[1])


def greedy(model, batch, count):
    """The naive twin: the whole sequence anew for every token, through the model's own parts."""
    wrapped, found = WrappedLlava(model), []
    with torch.no_grad():
        visual = wrapped.project(batch["pixel_values"])
        embeds = wrapped.embed(batch["input_ids"])
        embeds = embeds.masked_scatter(batch["image_mask"][..., None], visual.to(embeds.dtype))
        for _ in range(count):
            hidden = wrapped.language_model(inputs_embeds=embeds, use_cache=False)
            logits = model.lm_head(hidden.last_hidden_state[:, -1])
            found.append(int(logits.argmax()))
            embeds = torch.cat([embeds, wrapped.embed(torch.tensor([[found[-1]]]))], dim=1)
    return found
