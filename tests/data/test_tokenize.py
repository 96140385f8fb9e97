"""Masks worked out by hand, piece by piece: a Llama-like tokenizer, both `legacy` settings."""

import pytest
from transformers import AutoTokenizer

from llava_sea.conversation import get_template
from llava_sea.data.tokenize import PLACEHOLDER_ID, padding_id, tokenize_record
from llava_sea.errors import UserError
from tests.worlds import parsed

P = 4


def pieces(tokenizer, found):
    """Every token as its piece: [piece] where supervised, IMG at the picture's places."""
    named = tokenizer.convert_ids_to_tokens(found.input_ids)
    out = []
    for piece, token, label, is_image in zip(named, *found, strict=True):
        assert label in (-100, token) and not (is_image and label == token)
        assert not is_image or token == PLACEHOLDER_ID
        out.append("IMG" if is_image else piece if label == -100 else [piece])
    return out


def v1_tail(tokenizer, *texts, image=None, limit=2048):
    """What comes after the system prompt's last piece, the full stop of "questions."."""
    row = parsed(*texts, image=image)
    found = pieces(tokenizer, tokenize_record(row, get_template("v1"), tokenizer, P, limit))
    assert found[0] == "<s>" and "<s>" not in found[1:]
    return found[found.index(".", found.index(".") + 1) + 1 :]


@pytest.mark.parametrize(
    ("caption", "supervised"),
    [
        ("a red kettle", ["▁a", "▁red", "▁kettle", "<0x0A>"]),
        # The text after the picture is tokenised on its own: it begins with a prefix space ...
        ("3", ["▁3", "<0x0A>"]),
        ("é", ["▁", "<0xC3>", "<0xA9>", "<0x0A>"]),
        ("\nis", ["▁", "<0x0A>", "i", "s", "<0x0A>"]),
        # ... but a text that begins with a space does not get another one.
        (" a boat ", ["▁a", "▁boat", "▁", "<0x0A>"]),
        ("船", ["▁", "<0xE8>", "<0x88>", "<0xB9>", "<0x0A>"]),
    ],
)
def test_plain(hand_tokenizer, plain, caption, supervised):
    row = parsed("Say it.\n<image>", caption, image="a.jpg")
    found = pieces(hand_tokenizer, tokenize_record(row, plain, hand_tokenizer, P, 2048))
    assert found == ["<s>", *["IMG"] * P, *[[piece] for piece in supervised]]


def test_plain_sees_the_end_token_in_a_caption(hand_tokenizer, plain):
    """LLaVA's tokenizer reads the literal as the token; so does ours."""
    found = tokenize_record(parsed("<image>", "a</s>", image="a"), plain, hand_tokenizer, P, 99)
    tail = {True: ["▁", "<0x0A>"], False: ["<0x0A>"]}[hand_tokenizer.legacy]
    expected = ["▁a", "</s>", *tail]
    assert pieces(hand_tokenizer, found)[1 + P :] == [[piece] for piece in expected]


QUESTION = ["▁US", "ER", ":", "▁what", "▁is", "?", "▁ASSISTANT", ":"]


def test_v1_one_round(hand_tokenizer):
    assert v1_tail(hand_tokenizer, "what is?", "a red kettle") == [
        *QUESTION,
        *[["▁a"], ["▁red"], ["▁kettle"], ["</s>"]],
    ]


def test_v1_two_rounds(hand_tokenizer):
    # After the end token legacy puts a prefix space, which makes USER two pieces instead of one.
    user = {True: ["▁US", "ER"], False: ["USER"]}[hand_tokenizer.legacy]
    assert v1_tail(hand_tokenizer, "what is?", "a", "what?", "3") == [
        *QUESTION,
        *[["▁a"], ["</s>"]],
        *[*user, ":", "▁what", "?", "▁ASSISTANT", ":"],
        *[["▁3"], ["</s>"]],
    ]


def test_v1_picture(hand_tokenizer):
    assert v1_tail(hand_tokenizer, "what\n<image>", "a boat", image="a.jpg") == [
        # "... USER: " and "\nwhat ASSISTANT: ..." are two texts, each with its own prefix space.
        *["▁US", "ER", ":", "▁", *["IMG"] * P, "▁", "<0x0A>", "w", "h", "a", "t"],
        *["▁ASSISTANT", ":", ["▁a"], ["▁boat"], ["</s>"]],
    ]


def test_v1_picture_in_the_second_round(hand_tokenizer):
    user = {True: ["▁US", "ER"], False: ["USER"]}[hand_tokenizer.legacy]
    assert v1_tail(hand_tokenizer, "what is?", "a", "<image>", "3", image="a.jpg") == [
        *[*QUESTION, ["▁a"], ["</s>"], *user, ":", "▁", *["IMG"] * P],
        *["▁ASSISTANT", ":", ["▁3"], ["</s>"]],
    ]


@pytest.mark.parametrize(
    ("answer", "supervised"),
    [
        ("\na", ["▁", "<0x0A>", "a"]),
        (" a", ["▁", "▁a"]),
        ("é", ["▁", "<0xC3>", "<0xA9>"]),
        (" ", ["▁", "▁"]),
        ("a ", ["▁a", "▁"]),
    ],
)
def test_v1_answers_that_begin_oddly(hand_tokenizer, answer, supervised):
    found = v1_tail(hand_tokenizer, "what is?", answer)
    assert found == [*QUESTION, *[[piece] for piece in supervised], ["</s>"]]


def test_v1_empty_answer_in_the_middle(hand_tokenizer):
    assert v1_tail(hand_tokenizer, "what is?", "", "what?", "a") == [
        *QUESTION,
        *["USER", ":", "▁what", "?", "▁ASSISTANT", ":", ["▁a"], ["</s>"]],
    ]


def test_byte_level_bpe_has_no_bos_and_its_spaces_belong_to_words(byte_level_tokenizer, plain):
    tokenizer = byte_level_tokenizer
    row = parsed("<image>", "red kettle", image="a.jpg")
    caption = pieces(tokenizer, tokenize_record(row, plain, tokenizer, P, 99))
    assert caption[:P] == ["IMG"] * P and "".join(p[0] for p in caption[P:]) == "redĠkettleĊ"
    row = parsed("what\n<image>", "\na boat ", "is?", " red", image="a.jpg")
    found = pieces(tokenizer, tokenize_record(row, get_template("v1"), tokenizer, P, 2048))
    learned = "".join(p[0] if isinstance(p, list) else "|" for p in found)
    assert [run for run in learned.split("|") if run] == ["ĠĊaĠboatĠ</s>", "ĠĠred</s>"]


def test_truncation_cuts_after_the_picture_is_written_out(hand_tokenizer, plain):
    row = parsed("<image>", "a red kettle", image="a.jpg")
    whole = tokenize_record(row, plain, hand_tokenizer, P, 9)
    assert len(whole.input_ids) == 9  # <s>, 4 of the picture, 4 of the caption
    cut = tokenize_record(row, plain, hand_tokenizer, P, 7)
    assert cut == tuple(part[:7] for part in whole)
    assert pieces(hand_tokenizer, cut)[-2:] == [["▁a"], ["▁red"]]


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (
            5,
            r"record 0 \(id 'r0'\): is 9 tokens long, 4 of them .* all that is to be learned is",
        ),
        (4, "they are cut off by --model_max_length 4"),
        (1, "they are cut off by --model_max_length 1"),
    ],
)
def test_a_cut_that_leaves_nothing_is_an_error(hand_tokenizer, plain, limit, message):
    row = parsed("<image>", "a red kettle", image="a.jpg")
    with pytest.raises(UserError, match=message):
        tokenize_record(row, plain, hand_tokenizer, P, limit)


def test_nothing_to_learn_is_an_error(hand_tokenizer):
    for texts in (("what is?", ""), ("what is?",)):
        with pytest.raises(UserError, match=r"record 0 \(id 'r0'\): no answer to learn from"):
            tokenize_record(parsed(*texts), get_template("v1"), hand_tokenizer, P, 2048)


def test_padding_id(hand_tokenizer, byte_level_tokenizer):
    assert padding_id(hand_tokenizer, 999) == 0
    assert padding_id(byte_level_tokenizer, 999) == byte_level_tokenizer.eos_token_id


def test_padding_takes_a_row_that_the_table_has(grown_llm):
    tokenizer = AutoTokenizer.from_pretrained(grown_llm)
    last = tokenizer.pad_token_id
    assert padding_id(tokenizer, last + 1) == last
    assert padding_id(tokenizer, last) == tokenizer.unk_token_id
    tokenizer.unk_token = None
    assert padding_id(tokenizer, last) == tokenizer.eos_token_id
    assert padding_id(tokenizer, 1) == 0


def test_slow_tokenizers_are_refused(plain):
    class Slow:
        is_fast = False

    with pytest.raises(UserError, match="no character offsets"):
        tokenize_record(parsed("<image>", "a", image="a"), plain, Slow(), P, 9)
