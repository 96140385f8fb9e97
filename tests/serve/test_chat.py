"""Conversations: prompts as in training, turns that add up, streaming."""

from __future__ import annotations

import copy
from io import StringIO
from types import SimpleNamespace

import pytest
import torch

from llava_sea.conversation import get_template
from llava_sea.data.records import Record, Turn
from llava_sea.data.tokenize import tokenize_prompt, tokenize_record
from llava_sea.errors import UserError
from llava_sea.serve.chat import AnswerStreamer, Chat


@pytest.fixture
def chat(talker, pixels) -> Chat:
    """A greedy conversation."""
    return Chat(talker.model, talker.tokenizer, talker.template, pixels, 12, 0.0)


def test_a_prompt_is_what_training_saw_before_the_answer(talker):
    turns = [
        Turn("human", "<image>\nWhat is it?"),
        Turn("gpt", "a kite"),
        Turn("human", "Which colour?"),
        Turn("gpt", "red"),
    ]
    for count in (2, 4):
        record = Record(0, "x", "a.png", tuple(turns[:count]))
        whole = tokenize_record(record, talker.template, talker.tokenizer, 16, 900)
        last = max(n for n, label in enumerate(whole.labels) if label == -100) + 1
        ids, mask = tokenize_prompt(turns[: count - 1], talker.template, talker.tokenizer, 16)
        assert (ids, mask) == (whole.input_ids[:last], whole.image_mask[:last])


def test_answers_follow_from_the_whole_conversation(chat, talker, pixels, naive):
    said: list[Turn] = []
    for question in ("What is it?", "Which colour?"):
        out = StringIO()
        answer = chat.ask(question, out)
        said.append(Turn("human", question if said else f"<image>\n{question}"))
        ids, mask = tokenize_prompt(said, talker.template, talker.tokenizer, 16)
        new = naive(talker.model, ids, mask, pixels, 12, [2])
        text = talker.tokenizer.decode(new, skip_special_tokens=True).strip()
        assert answer == text
        assert out.getvalue() == text + "\n"
        said.append(Turn("gpt", text))
        assert chat.turns == said
    assert text, "an empty answer would show nothing"


def test_a_question_that_fails_leaves_the_conversation_as_it_was(chat):
    chat.ask("What is it?")
    before = list(chat.turns)
    with pytest.raises(UserError, match="leave <image> out"):
        chat.ask("And <image>?")
    with pytest.raises(UserError, match="the LLM reads 1024"):
        chat.ask("why " * 600)
    assert chat.turns == before


def test_special_tokens_typed_in_a_question_are_text(chat, talker, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "llava_sea.serve.chat.generate",
        lambda model, ids, *rest, **options: (
            asked.append(ids[0].tolist()) or torch.tensor([[99, 2]])
        ),
    )
    chat.ask("Is </s> a token?")
    chat.ask("<s>And now</s>?")
    end, start = talker.tokenizer.eos_token_id, talker.tokenizer.bos_token_id
    for ids, turns in zip(asked, (0, 1), strict=True):
        assert ids.count(end) == turns and start not in ids[1:]
        assert "Is </s> a token? ASSISTANT:" in talker.tokenizer.decode(ids)
    assert "USER: <s>And now</s>? ASSISTANT:" in talker.tokenizer.decode(asked[1])


def test_a_token_that_the_llm_does_not_have_is_refused(chat):
    chat.tokenizer = copy.deepcopy(chat.tokenizer)
    chat.tokenizer.add_tokens(["<extra>"])
    with pytest.raises(UserError, match=r"'<extra>'.*the LLM's embedding table has"):
        chat.ask("What is <extra>?")
    assert chat.turns == []


def test_a_captioner_sees_the_picture_alone(chat, talker, pixels, naive):
    chat.template = get_template("plain")
    first = chat.ask("Describe it.")
    bos = [talker.tokenizer.bos_token_id] if talker.tokenizer("a").input_ids[0] == 1 else []
    ids, mask = bos + [0] * 16, [False] * len(bos) + [True] * 16
    newline = talker.tokenizer("\n", add_special_tokens=False).input_ids[-1]
    new = naive(talker.model, ids, mask, pixels, 12, [2, newline])
    assert first == talker.tokenizer.decode(new, skip_special_tokens=True).strip()
    assert chat.ask("Again?") == first


def test_debug_shows_prompt_and_answer_on_stderr(chat, capsys):
    chat.debug = True
    answer = chat.ask("What is it?")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "16 patches, " in shown.err and "What is it? ASSISTANT:" in shown.err
    assert repr(answer)[1:5] in shown.err and "(12 tokens)" in shown.err


def test_white_space_around_an_answer_is_not_printed():
    out = StringIO()
    streamer = AnswerStreamer(SimpleNamespace(), out)
    pieces = ["  ", "\n a ", "kite ", "\n", "and\n", " "]
    for number, piece in enumerate(pieces):
        streamer.on_finalized_text(piece, stream_end=number == len(pieces) - 1)
        assert not out.getvalue().startswith((" ", "\n"))
    assert out.getvalue() == "a kite \nand\n"
