"""What was written, opened by stock transformers where llava_sea cannot be imported.

The numbers of the comparison stand in the test output (`pytest -s`).
"""

import numpy as np
import pytest
import torch
from model_world import ANSWER, CASES, NEW_TOKENS, QUESTION, tokens_of, training_logits
from PIL import Image


@pytest.fixture(params=CASES)
def case(request, opened):
    return opened[request.param]


def with_image_ids(case, tokens):
    return [
        case.stock.image_token_id if is_image else token
        for token, is_image in zip(tokens.input_ids, tokens.image_mask, strict=True)
    ]


def test_every_weight_has_its_place(case):
    assert case.stock.missing == case.stock.unexpected == case.stock.mismatched == []
    assert getattr(case.stock, "class") == "LlavaForConditionalGeneration"


def test_pictures_come_out_as_in_training(case):
    ours = case.transform(Image.open(case.image).convert("RGB")).numpy()
    assert ours.shape == case.arrays["pixels"].shape
    assert np.abs(ours - case.arrays["pixels"]).max() < 1e-6
    if case.transform.aspect_ratio == "pad":
        assert case.stock.image_processor.startswith("LlavaImageProcessor")


def test_the_chat_template_gives_trainings_ids(case, tmp_path):
    whole = tokens_of(case, *case.whole, folder=tmp_path)
    assert case.arrays["whole_ids"].tolist() == with_image_ids(case, whole)
    prompt = tokens_of(case, case.whole[0], folder=tmp_path)
    assert case.arrays["prompt_ids"].tolist() == with_image_ids(case, prompt)
    assert sum(prompt.image_mask) == 16


def test_logits_over_the_original_vocabulary_are_equal(case, tmp_path, request):
    tokens = tokens_of(case, *case.whole, folder=tmp_path)
    pixels = case.transform(Image.open(case.image).convert("RGB"))
    ours = training_logits(case.model, tokens.input_ids, tokens.image_mask, pixels)
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


def test_greedy_texts_are_equal(case, tmp_path, request):
    prompt = tokens_of(case, case.whole[0], folder=tmp_path)
    ids, mask = list(prompt.input_ids), list(prompt.image_mask)
    pixels = case.transform(Image.open(case.image).convert("RGB"))
    ends = {case.tokenizer.eos_token_id}
    if case.template.caption_only:
        ends.add(case.tokenizer.convert_tokens_to_ids("<0x0A>"))
    start = len(ids)
    for _ in range(NEW_TOKENS):
        ids.append(int(training_logits(case.model, ids, mask, pixels)[-1].argmax()))
        mask.append(False)
        if ids[-1] in ends:
            break
    ours = case.tokenizer.decode(ids[start:], skip_special_tokens=True)
    print(f"\n{request.node.name}: {ours!r}")
    assert ours == case.stock.text and ours


def test_both_ways_of_writing_a_message_are_the_same(case):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(case.folder)

    def text(content):
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": ANSWER}]
        return tokenizer.apply_chat_template(messages, tokenize=False)

    items = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    assert text(items) == text(f"<image>\n{QUESTION}") == text(items[::-1])
