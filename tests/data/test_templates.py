"""Every template on tokenizers of every kind: what is learned, where a prompt ends, BOS."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava_sea.constants import IGNORE_INDEX
from llava_sea.conversation import TEMPLATES, get_template, render
from llava_sea.data.records import Record, Turn
from llava_sea.data.tokenize import check_template, stop_ids, tokenize_prompt, tokenize_record
from llava_sea.errors import UserError
from tests import worlds
from tests.worlds import parsed

PIECES = ("v1", "llava_v1", "llama_2", "llava_llama_2", "mistral")
BYTES = ("llama_3", "gemma", "gemma_instruct", "phi3", "qwen", "qwen_2_5", "mpt", "chatml_direct")
SPECIAL = (
    "<|pad|>",  # id 0, which also stands at a picture's places
    "<|begin_of_text|>",
    "<bos>",
    "<eos>",
    "<|endoftext|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "<|im_start|>",
    "<|im_end|>",
)


def byte_level(bos: str | None, unk: str | None = None):
    """Byte-level BPE; with `bos` it begins every text by itself, as Llama 3's and Gemma's do."""
    corpus = ["a red boat is what you see user assistant model"] * 9
    special = [*SPECIAL, *([unk] if unk else [])]
    options = {"unk_token": unk, "additional_special_tokens": list(SPECIAL)}
    return worlds.byte_level(corpus, special, bos, eos_token="<|endoftext|>", **options)


@pytest.fixture(scope="module")
def tokenizers():
    """By template: a tokenizer of its LLM's kind, and one that adds no BOS by itself."""
    plain, with_unk = byte_level(None), byte_level(None, "<unk>")
    adding = {bos: byte_level(bos) for bos in ("<|begin_of_text|>", "<bos>")}

    def of(name: str):
        bos = get_template(name).bos
        return [plain, with_unk, *([adding[bos]] if bos else [])]

    return of


WORDS = st.text("ab redx3.,?'é\n", min_size=1, max_size=20).map(str.strip).filter(bool)
TALKS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4)
RELAXED = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


def record_of(talk, image: bool) -> Record:
    first, *others = (text for pair in talk for text in pair)
    if image:
        return parsed(f"{first}\n<image>", *others, image="x.jpg")
    return parsed(first, *others)


def check(record, talk, template, tokenizer):
    tokens = tokenize_record(record, template, tokenizer, 3, 10_000)
    pairs = zip(tokens.input_ids, tokens.labels, strict=True)
    groups = [
        [token for token, _ in group]
        for is_learned, group in groupby(pairs, key=lambda pair: pair[1] != IGNORE_INDEX)
        if is_learned
    ]
    said = [tokenizer.decode(g, clean_up_tokenization_spaces=False) for g in groups]
    assert [text.strip() for text in said] == [
        (answer + template.answer_end).strip() for _, answer in talk
    ]
    # The end of each answer is the token that generation stops at.
    if template.answer_end.endswith(template.stop):
        assert all(group[-1] in stop_ids(template, tokenizer) for group in groups)
    # A prompt is what training has before the answer, token for token.
    learned = [n for n, label in enumerate(tokens.labels) if label != IGNORE_INDEX]
    starts = [n for n in learned if n - 1 not in learned]
    for number, start in enumerate(starts):
        ids, mask = tokenize_prompt(record.turns[: 2 * number + 1], template, tokenizer, 3)
        assert ids == tokens.input_ids[:start] and mask == tokens.image_mask[:start]


@pytest.mark.parametrize("name", PIECES)
@given(talk=TALKS, image=st.booleans())
@RELAXED
def test_sentencepiece(name, trained_tokenizer, talk, image):
    check(record_of(talk, image), talk, get_template(name), trained_tokenizer)


@pytest.mark.parametrize("name", BYTES)
@given(talk=TALKS, image=st.booleans())
@RELAXED
def test_byte_level(name, tokenizers, talk, image):
    for tokenizer in tokenizers(name):
        check(record_of(talk, image), talk, get_template(name), tokenizer)


@pytest.mark.parametrize("name", ["llama_3", "gemma"])
def test_bos_stands_once_in_front(name, tokenizers):
    template = get_template(name)
    for tokenizer in tokenizers(name):
        ids = tokenize_record(record_of([("a", "b")], True), template, tokenizer, 3, 999).input_ids
        bos = tokenizer.convert_tokens_to_ids(template.bos)
        assert ids[0] == bos and ids.count(bos) == 1


def text_of(name: str, *texts: str) -> str:
    return "".join(s.text for s in render(parsed(*texts), get_template(name)))


def test_texts_to_the_letter():
    assert (
        text_of("mistral", "U", "A", "V", "B") == "[INST] U [/INST] A </s>[INST] V [/INST] B </s>"
    )
    assert text_of("llava_llama_2", "U", "A", "V", "B").startswith(
        "[INST] <<SYS>>\nYou are a helpful language and vision assistant. "
    )
    assert text_of("llava_llama_2", "U", "A", "V", "B").endswith(
        "\n<</SYS>>\n\nU [/INST] A </s><s>[INST] V [/INST] B </s>"
    )
    assert text_of("gemma", "U", "A") == (
        "<start_of_turn>user\nU<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n<eos>"
    )
    assert text_of("qwen", "U", "A") == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nU<|im_end|>\n"
        "<|im_start|>assistant\nA<|im_end|>\n"
    )
    assert text_of("chatml_direct", "U", "A") == (
        "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\nU<|im_end|>"
        "<|im_start|>assistant\nA<|im_end|>"
    )
    assert text_of("phi3", "U", "A") == (
        "<|system|>\nYou are a helpful AI assistant.<|end|>\n<|user|>\nU<|end|>\n<|assistant|>\n"
        "A<|end|>\n"
    )
    header = "<|start_header_id|>{}<|end_header_id|>\n\n"
    assert text_of("llama_3", "U", "A").endswith(
        f"<|eot_id|>{header.format('user')}U<|eot_id|>{header.format('assistant')}A<|eot_id|>"
    )
    assert text_of("v1", "U", "A", "V", "B").endswith(
        " questions. USER: U ASSISTANT: A</s>USER: V ASSISTANT: B</s>"
    )


def test_an_llm_without_the_templates_tokens_is_refused(trained_tokenizer, tokenizers):
    with pytest.raises(UserError, match=r"--version qwen: .* has no <\|im_start\|>, <\|im_end\|>"):
        check_template(get_template("qwen"), trained_tokenizer)
    with pytest.raises(UserError, match=r"--version v1: .* has no </s>"):
        check_template(get_template("v1"), tokenizers("qwen")[0])
    for name in BYTES:
        check_template(get_template(name), tokenizers(name)[0])
    check_template(get_template("plain"), trained_tokenizer)


def test_several_pictures_stand_in_their_own_places(trained_tokenizer):
    turns = (Turn("human", "first: <image> second: <image> same?"), Turn("gpt", "no"))
    record = Record(0, "r", "a.jpg", turns, ("b.jpg",))
    segments = render(record, get_template("v1"))
    places = [(s.text, s.is_image) for s in segments[2:7]]
    assert places == [
        ("first: ", False),
        ("<image>", True),
        (" second: ", False),
        ("<image>", True),
        (" same?", False),
    ]
    tokens = tokenize_record(record, get_template("v1"), trained_tokenizer, 3, 999)
    assert sum(tokens.image_mask) == 6
    with pytest.raises(UserError, match=r"2 image\(s\) .* but 1 <image>"):
        render(
            record.__class__(0, "r", "a.jpg", (Turn("human", "<image>"), turns[1]), ("b",)),
            get_template("v1"),
        )
    with pytest.raises(UserError, match="plain takes one image"):
        render(record, get_template("plain"))


def test_every_name_leads_to_a_template():
    assert {"plain", "v1", "llama_2", "llama_3", "gemma", "phi3", "qwen", "chatml", "mistral"} <= (
        TEMPLATES.keys()
    )
    for name in TEMPLATES:
        assert get_template(get_template(name).name).name == get_template(name).name


def test_padding_takes_a_token_that_is_there(tokenizers, tmp_path):
    from llava_sea.model.builder import load_tokenizer

    for name, tokenizer, expected in (
        ("qwen", tokenizers("qwen")[0], "<|endoftext|>"),
        ("llama_3", tokenizers("llama_3")[0], "<|endoftext|>"),  # no reserved token: EOS
    ):
        tokenizer.save_pretrained(tmp_path / name)
        pad = get_template(name).pad
        loaded = load_tokenizer(str(tmp_path / name), model_max_length=99, pad=pad)
        assert loaded.pad_token == expected and len(loaded) == len(tokenizer)
