"""Conversations: prompts as in training, turns that add up, streaming."""

from __future__ import annotations

import copy
from io import StringIO
from types import SimpleNamespace

import pytest
import torch

from llava_sea.conversation import get_template
from llava_sea.errors import UserError
from llava_sea.serve.chat import AnswerStreamer, Chat


@pytest.fixture
def chat(talker, pixels) -> Chat:
    """A greedy conversation."""
    return Chat(talker.model, talker.tokenizer, talker.template, pixels, 12, 0.0)


def test_answers_follow_from_the_whole_conversation(chat, converse):
    questions = ["What is it?", "Which colour?"]
    expected = converse(questions)
    for number, question in enumerate(questions):
        out = StringIO()
        text = expected[2 * number + 1].text
        assert chat.ask(question, out) == text
        assert out.getvalue() == text + "\n"
    assert chat.turns == expected
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
    for piece in ("  ", "\n a ", "kite ", "\n", "and\n"):
        streamer.on_finalized_text(piece)
        assert not out.getvalue().startswith((" ", "\n"))
    streamer.on_finalized_text(" ", stream_end=True)
    assert out.getvalue() == "a kite \nand\n"
