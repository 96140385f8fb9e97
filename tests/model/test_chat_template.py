"""The chat template equals every training template, token for token, or says how it differs."""

import copy
import re

import pytest
from model_world import save_tokenizer
from transformers import AutoTokenizer

from llava_sea.conversation import TEMPLATES
from llava_sea.model import chat_template
from llava_sea.model.builder import load_tokenizer
from llava_sea.model.chat_template import Spaces, choose_chat_template, write_jinja
from llava_sea.model.tokenizer import with_image_token, write_tokenizer
from tests.worlds import byte_level_tokenizer

KITE = "What is this? A red kite. USER: ASSISTANT: "
KINDS = ("sentencepiece-legacy", "sentencepiece", "byte-level", "byte-level-with-bos")
TEMPLATE_NAMES = sorted({template.name for template in TEMPLATES.values()})


@pytest.fixture(scope="module")
def tokenizers(tiny, tmp_path_factory):
    """One of each kind: Llama's with both settings, byte-level BPE without and with BOS."""
    made = {}
    for kind in KINDS[:2]:
        folder = tmp_path_factory.mktemp(kind)
        save_tokenizer(tiny, folder, legacy=kind.endswith("legacy"))
        made[kind] = load_tokenizer(str(folder), model_max_length=900)
    for kind in KINDS[2:]:
        bos = "<|begin|>" if kind.endswith("bos") else None
        special = ["<|endoftext|>", "</s>", "<|begin|>"]
        made[kind] = byte_level_tokenizer([KITE] * 9, special, "</s>", bos)
        made[kind].pad_token = "<|endoftext|>"
    return made


@pytest.mark.parametrize("markup", ["markup-as-text", "markup-as-tokens"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TEMPLATE_NAMES)
def test_ids_equal_trainings(tokenizers, kind, name, markup):
    template, tokenizer = TEMPLATES[name], copy.deepcopy(tokenizers[kind])
    if markup == "markup-as-tokens":
        texts = " ".join(text for text in vars(template).values() if isinstance(text, str))
        tokenizer.add_tokens(re.findall(r"<\|?\w+\|?>", texts), special_tokens=True)
    choice = choose_chat_template(template, tokenizer, with_image_token(tokenizer))
    assert choice.difference == ""


def test_a_difference_is_told(tokenizers):
    """A tokenizer that eats spaces after a picture cannot be brought to training's ids."""
    tokenizer = tokenizers["sentencepiece"]
    written = with_image_token(tokenizer)
    written.add_tokens(["kite", "Me"])
    choice = choose_chat_template(TEMPLATES["v1"], tokenizer, written)
    assert "training has" in choice.difference and "kite" in choice.difference


PATTERN = r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"


@pytest.mark.parametrize("name", ["llama_3", "qwen_2", "gemma_instruct", "phi3_instruct"])
def test_newlines_that_join_are_no_difference(name, monkeypatch):
    """Llama 3's, Qwen's and Gemma's newlines join over the end of a prompt; no text can say it."""
    template = TEMPLATES[name]
    corpus = ["A red kite.\n\nTwo trees\n\n\nof it\n"] * 9
    tokenizer = byte_level_tokenizer(
        corpus, list(template.special_tokens), template.stop, pattern=PATTERN
    )
    written = with_image_token(tokenizer)
    assert len(tokenizer.tokenize("\n\n\n")) == 1

    tried = []
    monkeypatch.setattr(
        chat_template, "write_jinja", lambda *args: tried.append(args) or write_jinja(*args)
    )
    assert choose_chat_template(template, tokenizer, written).difference == ""
    assert len(tried) <= 2
    written.add_tokens(["kite"])
    assert "kite" in choose_chat_template(template, tokenizer, written).difference


@pytest.fixture
def render(tokenizers):
    tokenizer = tokenizers["sentencepiece-legacy"]
    jinja = write_jinja(TEMPLATES["v1"], Spaces("bos_token", "", "", ""))

    def text(*messages, prompt=False):
        rows = [{"role": role, "content": content} for role, content in messages]
        return tokenizer.apply_chat_template(
            rows, chat_template=jinja, tokenize=False, add_generation_prompt=prompt
        )

    return text


def test_the_text_of_v1(render):
    items = [{"type": "text", "text": 'Is it "red"?'}, {"type": "image"}]
    text = render(("user", items), ("assistant", "Yes."), ("user", "Sure?"), prompt=True)
    system, _, rest = text.partition(" USER: ")
    assert system.startswith("<s>A chat between a curious user and")
    assert rest == '<image>\nIs it "red"? ASSISTANT: Yes.</s>USER: Sure? ASSISTANT:'


def test_several_pictures_stay_where_they_are(render):
    items = [
        {"type": "image"},
        {"type": "text", "text": " or "},
        {"type": "image_url", "image_url": {"url": "x"}},
        {"type": "text", "text": "?"},
    ]
    assert render(("user", items), prompt=True).endswith("USER: <image> or <image>? ASSISTANT:")
    assert render(("user", [{"type": "image"}]), prompt=True).endswith("<image> ASSISTANT:")


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([("system", "Be brief."), ("user", "Hi")], "send no system message"),
        ([("assistant", "Hi")], "must alternate"),
        ([("user", "Hi"), ("user", "Hi")], "must alternate"),
        ([("user", [{"type": "video"}])], "not understood: video"),
    ],
)
def test_what_training_never_saw_is_refused(render, messages, message):
    with pytest.raises(Exception, match=message):
        render(*messages)


def test_a_written_tokenizer_reads_back_the_same(tokenizers, tmp_path):
    """Above all `legacy`, which transformers 5.23 forgets when it saves."""
    for kind, tokenizer in tokenizers.items():
        written = with_image_token(tokenizer)
        write_tokenizer(tmp_path / kind, written, "{{ messages }}")
        again = AutoTokenizer.from_pretrained(tmp_path / kind)
        text = "<image>a kite</s>USER: <image> é\n"
        assert again(text).input_ids == written(text).input_ids
        assert again.chat_template == "{{ messages }}"
