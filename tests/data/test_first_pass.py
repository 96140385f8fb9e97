"""What is asked of all records before a run starts: one error with a count, warnings, speed."""

import logging
import re
from dataclasses import replace

import pytest

from llava_sea.conversation import TEMPLATES
from llava_sea.data import problems
from llava_sea.data.dataset import LazySupervisedDataset
from llava_sea.data.first_pass import check_conversations, check_tokens
from llava_sea.data.records import Record, Turn
from llava_sea.errors import UserError
from llava_sea.model.builder import load_tokenizer

V1, PLAIN = TEMPLATES["v1"], TEMPLATES["plain"]


def record(index, *texts, image="a.jpg", first="human"):
    roles = ("human", "gpt") if first == "human" else ("gpt", "human")
    turns = tuple(Turn(roles[n % 2], t) for n, t in enumerate(texts))
    return Record(index, f"r{index}", image, turns, file="data.json")


def good(index):
    return record(index, "<image>\nWhat?", "a ball")


@pytest.mark.parametrize(
    ("bad", "template", "message"),
    [
        (record(1, "What?", "a ball"), V1, "but 0 <image>"),
        (record(1, "<image>", "a", "<image>", "b"), V1, "but 2 <image>"),
        (record(1, "<image>\nWhat?", ""), V1, "no answer to learn from"),
        (record(1, "<image>\nWhat?"), V1, "no answer to learn from"),
        (record(1, "<image>\nWhat?", "a", image=None), V1, "<image> for its image"),
        (record(1, "Hi", "a", "What? <image> ", "b", image=None), V1, 'there is no "image"'),
        (record(1, "a ball", "<image>\nWhat?", first="gpt"), V1, "speakers were swapped"),
        (record(1, "a", "<image>", "b", "Why?", first="gpt"), V1, "speakers were swapped"),
        (record(1, "a", "Hi", image=None, first="gpt"), V1, "speakers were swapped"),
        (record(1, "<image>", "a", "b", "c"), PLAIN, "one human turn and one gpt turn"),
        (record(1, "<image>", "a", image=None), PLAIN, 'has no "image"'),
    ],
)
def test_bad_records_are_counted_and_named_with_their_file(bad, template, message):
    rows = [good(0), bad, good(2)]
    with pytest.raises(UserError, match=message) as caught:
        check_conversations(rows, template)
    text = str(caught.value)
    assert text.startswith("data.json: record 1 (id 'r1')")
    assert "1 of 3 records" in text and "also" not in text


def test_of_many_the_first_few_are_named():
    rows = [good(0), *(record(n, "What?", "a ball") for n in range(1, 8))]
    with pytest.raises(UserError, match=r"7 of 8 records .*also record 2, 3, 4, 5, \.\.\."):
        check_conversations(rows, V1)
    with pytest.raises(UserError, match=r"2 of 2 records .*\(also record 2\)"):
        check_conversations(rows[1:3], V1)


def test_good_records_pass_without_a_word(caplog):
    check_conversations([good(0), record(1, "Hi", "Ho", image=None)], V1)
    check_conversations([good(0)], PLAIN)
    assert not caplog.text


def test_what_is_borne_is_logged_with_a_count(caplog):
    rows = [
        good(0),
        record(1, "Welcome", "What is <image> in HTML?", "A tag", image=None, first="gpt"),
        record(2, "What is <image>?", "a tag", image=None),
        record(3, "Welcome", "<image>\nWhat?", "a ball", first="gpt"),
    ]
    with caplog.at_level(logging.WARNING, logger="llava_sea"):
        check_conversations(rows, V1)
    assert caplog.messages == [
        f"data.json: 2 records: {kind.name} ({kind.way_out}); the first: record 1 (id 'r1')"
        for kind in (problems.LEADING_GPT, problems.LITERAL_IMAGE)
    ]


def test_keys_that_llava_ignores_are_counted_once(caplog):
    rows = [good(0), replace(good(1), ignored=("system",)), replace(good(2), ignored=("weight",))]
    for template in (V1, PLAIN):
        caplog.clear()
        check_conversations(rows, template)
        assert len(caplog.messages) == 1
        assert re.match(r"data.json: 2 records: .*: record 1 \(id 'r1'\)", caplog.messages[0])


@pytest.fixture
def dataset(grown_llm):
    """Makes a data set of records, read with the tokenizer that has more than the table."""
    tokenizer = load_tokenizer(str(grown_llm), model_max_length=250)
    rows = tokenizer.pad_token_id

    def make(records, version="v1"):
        options = {"image_tokens": 4, "model_max_length": 250}
        template = TEMPLATES[version]
        return LazySupervisedDataset(records, "", None, template, tokenizer, **options), rows

    return make


def test_tokens_beyond_the_table_are_named_by_record(dataset):
    rows = [good(0), record(1, "<image>", "a [PAD] ball"), good(2), record(3, "<image>", "<extra>")]
    message = r"^data.json: record 1 \(id 'r1'\): holds '\[PAD\]'.* 2 of 4 records .*also record 3"
    with pytest.raises(UserError, match=message):
        check_tokens(*dataset(rows))
    check_tokens(*dataset([good(0), record(1, "<image>\n[PAD]", "a")], "plain"))


def test_so_are_those_of_another_models_tokenizer(dataset):
    data, _ = dataset([good(0), good(1)])
    with pytest.raises(UserError, match=r"record 0 .*the LLM's embedding table has 300 rows"):
        check_tokens(data, 300)


def test_special_tokens_in_texts_are_counted_once(dataset, caplog):
    rows = [good(0), record(1, "<image>\n</s>", "a<s></s>"), record(2, "<image>", "</s>")]
    data, num_rows = dataset(rows)
    check_tokens(data, num_rows)
    assert len(caplog.messages) == 1
    assert re.match(r"data.json: 2 records .*'</s>' \(3\), '<s>' \(1\)", caplog.messages[0])
