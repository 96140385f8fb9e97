"""Answers in batches: each as it would be alone."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from llava_sea.errors import UserError
from llava_sea.eval.answering import to_bfloat16
from llava_sea.eval.generation import Answerer, Decoding, plan_batches


@pytest.fixture
def make(answerer, tiny):
    """Make an `Answerer`."""
    parts = answerer.model, answerer.tokenizer, answerer.transform, answerer.template, tiny.images
    return lambda batch_size, **decoding: Answerer(
        *parts, Decoding(**{"max_new_tokens": 12} | decoding), batch_size
    )


def ask(answerer: Answerer, questions) -> dict:
    return {q.key: text for batch in answerer.answers(questions) for q, text in batch}


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_answers_do_not_depend_on_the_batch(make, questions, expected, batch_size):
    assert ask(make(batch_size), questions) == expected


def test_nor_near_the_contexts_end(make, questions):
    # 512 tokens of context: the long prompt leaves less room than the others want.
    long = dataclasses.replace(questions[4], text=questions[4].text * 8, prompt="long")
    alone = ask(make(1, max_new_tokens=60), [*questions, long])
    assert ask(make(6, max_new_tokens=60), [*questions, long]) == alone


def test_sampling_repeats(make, questions, expected):
    first, again = (ask(make(2, temperature=1.5), questions) for _ in range(2))
    assert first == again != expected


def test_which_prompts_go_together():
    assert list(plan_batches([3, 9, 5, 9, 4], 2, roomy=100)) == [[1, 3], [2, 4], [0]]
    # prompts above 4 tokens are cut short by the context's end: only equals beside them
    assert list(plan_batches([3, 9, 5, 9, 4], 3, roomy=4)) == [[1, 3], [2], [4, 0]]
    assert list(plan_batches([], 3, roomy=4)) == []
    # lengths are sorted within 32 batches
    assert list(plan_batches([*[1] * 32, 2], 1, roomy=9)) == [[i] for i in range(33)]


def test_prompts_that_cannot_be_asked_are_named(make, questions):
    answerer = make(1)
    long = dataclasses.replace(questions[3], text="red " * 600)
    with pytest.raises(UserError, match=r"jsonl:4: question 8: the prompt is \d+ .* reads 512"):
        ask(answerer, [long])
    tokenizer = copy.deepcopy(answerer.tokenizer)
    tokenizer.add_tokens(["<extra>"])  # without a row for it in the LLM
    beyond = dataclasses.replace(questions[3], text="a <extra>")
    with pytest.raises(UserError, match=r"jsonl:4: question 8: .*'<extra>'"):
        ask(dataclasses.replace(answerer, tokenizer=tokenizer), [beyond])


def test_special_tokens_typed_in_a_question_are_text(make, questions):
    answerer = make(1)
    ids, _ = answerer._tokenize(dataclasses.replace(questions[4], text="</s> <s>a"))
    assert answerer.tokenizer.eos_token_id not in ids[1:]
    assert "</s> <s>a ASSISTANT:" in answerer.tokenizer.decode(ids)


def test_float32_weights_answer_in_bfloat16(make, questions, expected):
    answerer = make(5)
    model = copy.deepcopy(answerer.model)
    to_bfloat16(model)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    frequencies = {b.dtype for name, b in model.named_buffers() if name.endswith("inv_freq")}
    assert frequencies == {torch.float32}
    assert ask(dataclasses.replace(answerer, model=model), questions).keys() == expected.keys()
