"""The chat template equals every training template, token for token, or says how it differs."""

import copy
import re

import pytest
from model_world import save_tokenizer
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llava_sea.conversation import TEMPLATES
from llava_sea.model import chat_template
from llava_sea.model.builder import load_tokenizer
from llava_sea.model.chat_template import Spaces, choose_chat_template, write_jinja
from llava_sea.model.tokenizer import with_image_token

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
        made[kind] = byte_level(with_bos=kind.endswith("bos"))
    return made


def byte_level(*, with_bos):
    """A byte-level BPE as GPT-2's and Qwen's, or one that begins with BOS as Llama 3's."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "</s>", "<|begin|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(["What is this? A red kite. USER: ASSISTANT: "] * 9, trainer)
    if with_bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", 2)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="</s>",
        pad_token="<|endoftext|>",
        **({"bos_token": "<|begin|>"} if with_bos else {}),
    )


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
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(template.special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(["A red kite.\n\nTwo trees\n\n\nof it\n"] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=template.stop)
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
    from llava_sea.model.tokenizer import write_tokenizer

    for kind, tokenizer in tokenizers.items():
        written = with_image_token(tokenizer)
        write_tokenizer(tmp_path / kind, written, "{{ messages }}")
        again = AutoTokenizer.from_pretrained(tmp_path / kind)
        text = "<image>a kite</s>USER: <image> é\n"
        assert again(text).input_ids == written(text).input_ids
        assert again.chat_template == "{{ messages }}"
