"""Special tokens typed in texts: text in a prompt, counted in a record."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llava_sea.conversation import get_template
from llava_sea.data import tokenize
from llava_sea.data.control_tokens import control_tokens, typed_tokens
from llava_sea.data.records import Record, Turn
from llava_sea.data.tokenize import tokenize_prompt
from tests.worlds import parsed


def prompt(texts, tokenizer, template) -> list[int]:
    return tokenize_prompt(parsed(*texts).turns, template, tokenizer, 3)[0]


def check_typed(tokenizer, template) -> None:
    """Type every control token, in a question and in an answer before it."""
    ids = {tokenizer.convert_tokens_to_ids(word) for word in control_tokens(tokenizer, template)}
    usual = Counter(prompt(["a", "b", "a"], tokenizer, template))
    for word in sorted(control_tokens(tokenizer, template)):
        said = f"red {word}x", f"is {word}", f"{word} {word}. boat"
        found = Counter(prompt(said, tokenizer, template))
        assert {i: found[i] for i in ids} == {i: usual[i] for i in ids}, word
        text = tokenizer.decode(prompt(said, tokenizer, template))
        assert all(part in text for part in said), word


def test_they_stay_text(kind):
    check_typed(*kind)


def test_they_stay_text_with_llamas_tokenizer(hand_tokenizer):
    for version in ("v1", "llama_2"):
        check_typed(hand_tokenizer, get_template(version))


def test_they_stay_text_where_pieces_or_merges_would_make_them():
    """Unigram looks its pieces up in all text, and this BPE merges its way to the token."""
    letters = [(letter, -9.0) for letter in "▁<>/|abcdefghijklmnopqrstuvwxyzUSERATNI.,:'-"]
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("</s>", 0.0), *letters], 0))
    vocab = {word: n for n, word in enumerate(["<unk>", "</s>", "</", "s>", *dict(letters)])}
    merges = [("<", "/"), ("s", ">"), ("</", "s>")]
    bpe = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True))
    for backend in (unigram, bpe):
        backend.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
        backend.decoder = decoders.Metaspace(split=False)
        check_typed(
            PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>"),
            get_template("v1"),
        )


@given(texts=st.lists(st.text("a b\n.<|x", min_size=1, max_size=9), min_size=3, max_size=3))
@settings(
    max_examples=30,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_other_text_has_the_same_ids(kind, texts):
    tokenizer, template = kind
    usual = prompt(texts, tokenizer, template)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenize, "has_typed", lambda *_: True)
        assert prompt(texts, tokenizer, template) == usual


def test_added_tokens_that_do_not_control_stay_tokens(kind):
    tokenizer, template = kind
    for word, id_ in tokenizer.get_added_vocab().items():
        if word not in control_tokens(tokenizer, template):
            assert id_ in prompt([f"a{word}b {tokenizer.eos_token}"], tokenizer, template)


def test_a_records_are_counted_where_training_reads_them(hand_tokenizer, plain):
    record = parsed("a </s> <s>", "b</s></s> < /s>", image="a.jpg")
    found = typed_tokens(record, hand_tokenizer, get_template("v1"))
    assert found == {"</s>": 3, "<s>": 1}
    assert typed_tokens(record, hand_tokenizer, plain) == {"</s>": 2}  # a caption alone
    first = Record(0, "r", None, (Turn("gpt", "</s>"), *record.turns))
    assert typed_tokens(first, hand_tokenizer, get_template("v1")) == found
