"""Generation against a loop that takes the likeliest token by hand."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

from llava_sea.data.records import Turn
from llava_sea.data.tokenize import tokenize_prompt
from llava_sea.errors import UserError
from llava_sea.model.generate import generate, pad_prompts
from tests import worlds

QUESTIONS = ["<image>\nWhat is beside the red ball?", "Who?"]


@pytest.fixture
def prompts(talker):
    """Ids and masks of a long prompt with the picture and a short one without."""
    return [
        tokenize_prompt([Turn("human", text)], talker.template, talker.tokenizer, 16)
        for text in QUESTIONS
    ]


def run(talker, ids, mask, pixels, **options) -> list[list[int]]:
    options = {"max_new_tokens": 10, "temperature": 0.0, "stop_ids": [2]} | options
    batch = pad_prompts(list(zip(ids, mask, strict=True)))
    return generate(talker.model, *batch[:2], pixels, attention_mask=batch[2], **options).tolist()


def test_greedy_is_the_likeliest_token_each_time(talker, prompts, pixels, naive):
    (ids, mask), (text_ids, no_mask) = prompts
    expected = naive(talker.model, ids, mask, pixels, 10, [2])
    assert run(talker, [ids], [mask], pixels[None]) == [expected]
    other = naive(talker.model, ids, mask, -pixels, 10, [2])
    assert other != expected, "the picture must matter, or this test shows nothing"
    text = naive(talker.model, text_ids, no_mask, None, 10, [2])
    assert run(talker, [text_ids], [no_mask], None) == [text]


def test_a_padded_batch_gives_what_each_prompt_gives_alone(talker, prompts, pixels, naive):
    (ids, mask), (text_ids, no_mask) = prompts
    assert len(ids) > len(text_ids) + 16
    both = run(talker, [text_ids, ids, ids], [no_mask, mask, mask], torch.stack([pixels, -pixels]))
    assert both == [
        naive(talker.model, text_ids, no_mask, None, 10, [2]),
        naive(talker.model, ids, mask, pixels, 10, [2]),
        naive(talker.model, ids, mask, -pixels, 10, [2]),
    ]


def test_ends_at_the_first_stop_token(talker, prompts, pixels, naive):
    ids, mask = prompts[0]
    free = naive(talker.model, ids, mask, pixels, 10, [])
    stop = free[3]
    expected = free[: free.index(stop) + 1]
    assert run(talker, [ids], [mask], pixels[None], stop_ids=[2, stop]) == [expected]


def test_the_checkpoints_own_settings_do_not_enter(talker, prompts, pixels, monkeypatch):
    ids, mask = prompts[0]
    plain = run(talker, [ids], [mask], pixels[None])
    strange = GenerationConfig(repetition_penalty=50.0, suppress_tokens=plain[0], max_length=3)
    monkeypatch.setattr(talker.model, "generation_config", strange)
    assert run(talker, [ids], [mask], pixels[None]) == plain
    assert talker.model.generation_config is strange


def test_temperature_samples_from_the_whole_vocabulary(talker, prompts, pixels):
    ids, mask = prompts[0]
    greedy = run(talker, [ids], [mask], pixels[None])
    assert run(talker, [ids], [mask], pixels[None], temperature=1e-4) == greedy
    torch.manual_seed(0)
    images = pixels.expand(400, -1, -1, -1)
    options = {"temperature": 1e4, "max_new_tokens": 1}
    many = run(talker, [ids] * 400, [mask] * 400, images, **options)
    # 400 uniform draws from 340 tokens: about 235 different ones; the usual top 50 would give 50.
    assert len({row[0] for row in many}) > 180


def test_the_context_is_a_limit(talker, prompts, pixels):
    ids, mask = prompts[0]
    room = 1024 - len(ids)
    long = [*ids[:1], *[5] * (room - 4), *ids[1:]]
    long_mask = [False, *[False] * (room - 4), *mask[1:]]
    new = run(talker, [long], [long_mask], pixels[None], max_new_tokens=50, stop_ids=[999])
    assert len(new[0]) == 4
    with pytest.raises(UserError, match="1024 tokens long with its image, the LLM reads 1024"):
        run(talker, [[*long, 5, 5, 5, 5]], [[*long_mask] + [False] * 4], pixels[None])


def test_beam_search_finds_what_is_likelier_than_greedy(talker, prompts, pixels):
    ids, mask = prompts[0]

    def likelihood(new: list[int], image: torch.Tensor) -> float:
        places = mask + [False] * len(new)
        rows = worlds.logits(talker.model, ids + new, places, image[0])[len(ids) - 1 : -1]
        return float(rows.log_softmax(-1)[range(len(new)), new].sum())

    gains = []
    for factor in (1, -1, 2, -2):
        image = factor * pixels[None]
        options = {"stop_ids": [999], "max_new_tokens": 4}
        beams, greedy = (
            run(talker, [ids], [mask], image, num_beams=count, **options)[0] for count in (8, 1)
        )
        gains.append(likelihood(beams, image) - likelihood(greedy, image))
    assert min(gains) > -1e-3
    assert max(gains) > 1e-2
