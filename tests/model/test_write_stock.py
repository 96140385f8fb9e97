"""What was written, opened by stock transformers where llava_sea cannot be imported.

The numbers of the comparison stand in the test output (`pytest -s`).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from model_world import CASES, run_elsewhere, tokens_of, write
from PIL import Image
from transformers import AutoTokenizer

from tests import worlds

NEW_TOKENS = 8
QUESTION, ANSWER, FOLLOW_UP = "What is beside the red ball?", "a green box", "And the black one?"


@pytest.fixture(scope="module")
def opened(make_case, tmp_path_factory) -> dict[str, SimpleNamespace]:
    """Every case written, and opened by stock transformers in one process without llava_sea."""
    root = tmp_path_factory.mktemp("written models")
    worlds.save_images(root, ["image.png"], (30, 47), np.random.default_rng(0))
    image = Image.open(root / "image.png").convert("RGB")
    assistant = {"role": "assistant", "content": ANSWER}
    asked = [{"type": "image", "path": str(root / "image.png")}, {"type": "text", "text": QUESTION}]
    cases, jobs = {}, []
    for name in CASES:
        case = cases[name] = make_case(name)
        case.folder, case.pixels = root / name, case.transform(image)
        write(case, case.folder)
        whole = [{"role": "user", "content": asked}, assistant]
        texts = ["<image>\n" + QUESTION, ANSWER]
        if not case.template.caption_only:
            whole += [{"role": "user", "content": FOLLOW_UP}, assistant]
            texts += [FOLLOW_UP, ANSWER]
        case.whole = tokens_of(case, *texts, folder=root)
        case.prompt = tokens_of(case, texts[0], folder=root)
        jobs.append(
            {
                "folder": str(case.folder),
                "image": str(root / "image.png"),
                "whole": whole,
                "new_tokens": NEW_TOKENS,
                "out": str(root / f"{name}.npz"),
            }
        )
    (root / "jobs.json").write_text(json.dumps(jobs))
    (root / "elsewhere").mkdir()
    python = os.environ.get("LLAVA_SEA_STOCK_PYTHON", sys.executable)
    script = Path(__file__).with_name("open_with_stock.py")
    run_elsewhere(python, [script, root / "jobs.json"], root / "elsewhere")
    for name, case in cases.items():
        case.stock = SimpleNamespace(**json.loads((root / f"{name}.npz.json").read_text()))
        case.arrays = dict(np.load(root / f"{name}.npz"))
    return cases


@pytest.fixture(params=CASES)
def case(request, opened):
    return opened[request.param]


def test_every_weight_has_its_place(case):
    assert case.stock.missing == case.stock.unexpected == case.stock.mismatched == []
    assert getattr(case.stock, "class") == "LlavaForConditionalGeneration"


def test_images_come_out_as_in_training(case):
    np.testing.assert_allclose(case.arrays["pixels"], case.pixels.numpy(), rtol=0, atol=1e-6)
    if case.transform.aspect_ratio == "pad":
        assert case.stock.image_processor.startswith("LlavaImageProcessor")


@pytest.mark.parametrize("part", ["whole", "prompt"])
def test_the_chat_template_gives_trainings_ids(case, part):
    tokens = getattr(case, part)
    pairs = zip(tokens.input_ids, tokens.image_mask, strict=True)
    ids = [case.stock.image_token_id if is_image else token for token, is_image in pairs]
    assert case.arrays[f"{part}_ids"].tolist() == ids
    assert sum(tokens.image_mask) == 16


def test_logits_over_the_original_vocabulary_are_equal(case, request):
    tokens = case.whole
    ours = worlds.logits(case.model, tokens.input_ids, tokens.image_mask, case.pixels)
    stock = torch.from_numpy(case.arrays["logits"])
    original = ours.shape[1]
    difference = (ours - stock[:, :original]).abs().max().item()
    print(
        f"\n{request.node.name}: {ours.shape[0]} ids x {original} of {stock.shape[1]} rows, "
        f"logits up to {ours.abs().max().item():.2f}, largest difference {difference:.2e}"
    )
    assert difference < 1e-4
    assert ours.abs().max() > 0.5  # not a comparison of zeros
    if stock.shape[1] > original:
        margin = stock[:, :original].max(1).values - stock[:, original:].max(1).values
        assert margin.min() > 0.1


def test_greedy_texts_are_equal(case):
    ends = [case.tokenizer.eos_token_id]
    if case.template.caption_only:
        ends.append(case.tokenizer.convert_tokens_to_ids("<0x0A>"))
    ids, mask = case.prompt.input_ids, case.prompt.image_mask
    new = worlds.greedy(case.model, list(ids), list(mask), case.pixels, NEW_TOKENS, ends)
    ours = case.tokenizer.decode(new, skip_special_tokens=True)
    assert ours == case.stock.text and ours


def test_both_ways_of_writing_a_message_are_the_same(case):
    tokenizer = AutoTokenizer.from_pretrained(case.folder)
    items = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    texts = {
        tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
        for content in (items, items[::-1], f"<image>\n{QUESTION}")
    }
    assert len(texts) == 1
