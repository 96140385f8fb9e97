"""Words are tokenised as in running text, by every kind of tokenizer."""

import numpy as np
import pytest

from llava_sea.data import words as words_module
from llava_sea.data.words import tokenize_words
from llava_sea.errors import UserError


def pieces(found, tokenizer):
    return [tokenizer.convert_ids_to_tokens([i for i in row if i >= 0]) for row in found.ids_QM]


def test_sentencepiece(hand_tokenizer):
    found = tokenize_words(["boat", "red kettle", "é", "3", "er"], hand_tokenizer, 999)
    assert pieces(found, hand_tokenizer) == [
        ["▁boat"],
        ["▁red", "▁kettle"],
        ["▁", "<0xC3>", "<0xA9>"],
        ["▁3"],
        ["▁", "e", "r"],
    ]
    assert found.ids_QM.dtype == np.int32 and found.ids_QM.shape == (5, 3)
    assert found.num_dropped == 0 and not found.dropped_Q.any()


def test_byte_level_bpe(byte_level_tokenizer):
    found = tokenize_words(["boat", "red kettle", "café"], byte_level_tokenizer, 999)
    assert pieces(found, byte_level_tokenizer) == [["Ġboat"], ["Ġred", "Ġkettle"], ["ĠcafÃ©"]]


def test_tokens_are_those_of_the_word_in_a_sentence(trained_tokenizer, byte_level_tokenizer):
    words = ["small boat", "detailed", "xylophone", "naïve", "'s"]
    for tokenizer in (trained_tokenizer, byte_level_tokenizer):
        found = tokenize_words(words, tokenizer, 999)
        for word, row in zip(words, found.ids_QM, strict=True):
            sentence = tokenizer(f"what is a {word} in this", add_special_tokens=False).input_ids
            start = len(tokenizer("what is a", add_special_tokens=False).input_ids)
            tokens = row[row >= 0].tolist()
            assert sentence[start : start + len(tokens)] == tokens
            assert tokenizer.decode(tokens).strip() == word


def test_dropped_words_are_counted_and_named(hand_tokenizer):
    found = tokenize_words(
        ["boat", "qqqqqq", "<unk> x", "red", "</s>"], hand_tokenizer, 999, max_tokens=5
    )
    assert found.dropped_Q.tolist() == [False, True, True, False, True] and found.num_dropped == 3
    assert (found.ids_QM[found.dropped_Q] == -1).all() and found.ids_QM.shape[1] == 1


def test_words_of_tokens_beyond_the_embedding_table_are_dropped(hand_tokenizer):
    rows = hand_tokenizer.convert_tokens_to_ids("▁boat")
    found = tokenize_words(["boat", "red"], hand_tokenizer, rows)
    assert found.dropped_Q.tolist() == [True, False]
    with pytest.raises(UserError, match=f"its table has {rows} rows"):
        tokenize_words(["boat"], hand_tokenizer, rows)


def test_blocks_join_to_the_same_table(hand_tokenizer, monkeypatch):
    words = ["boat", "red kettle", "é", "3", "what is a boat", "is"]
    whole = tokenize_words(words, hand_tokenizer, 999)
    monkeypatch.setattr(words_module, "_BLOCK", 2)
    assert np.array_equal(tokenize_words(words, hand_tokenizer, 999).ids_QM, whole.ids_QM)


def test_no_words_and_no_usable_words(hand_tokenizer):
    with pytest.raises(UserError, match="word list is empty"):
        tokenize_words([], hand_tokenizer, 999)
    with pytest.raises(UserError, match=r"none of the 2 words .the first: 'qqqq'."):
        tokenize_words(["qqqq", "</s>"], hand_tokenizer, 999, max_tokens=2)
