"""A ``tokenizer.model`` alone: the ids are those of the ``sentencepiece`` package, text by text."""

from __future__ import annotations

import json
import random
import re

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as sp_pb2
from transformers import AutoTokenizer

from llava_sea.errors import UserError
from llava_sea.model.builder import load_tokenizer
from llava_sea.model.tokenizer import load_training_tokenizer, with_image_token, write_tokenizer
from tests import worlds

KIND = sp_pb2.ModelProto.SentencePiece
CORPUS = """
def read(path, *, first=True): return [line for line in open(path) if line and first]
the quick brown fox jumps over a lazy dog, and the dog does not mind it: what of 123 or 4567?
a café in the Straße; 中国人民 日本 "quoted" (brackets) {'k': [0]} x = y + z * 2 # so it ends!
"""
LETTERS = [
    *(" " * length for length in (1, 1, 1, 1, 1, 1, 2, 3, 4, 8, 15, 19)),
    *["\n", "\n", "\t", "é", "é", "ß", "中国", "日", "🙂", "👩\u200d👧", "▁", "ﬁ", "\u200b"],
    *("\r\n", "\u00a0", "the ", "def ", "and", " return", "a", "a ", " a"),
    *"abcdefghijklmnopqrstuvwxyzABCXYZ0123456789.,:;!?'\"(){}[]=+*#",
]


def train(**options) -> sp_pb2.ModelProto:
    rng = random.Random(0)
    lines = [" ".join(rng.choices(CORPUS.split(), k=rng.randint(3, 12))) for _ in range(600)]
    return sp_pb2.ModelProto.FromString(worlds.sentencepiece_model(lines, 560, **options))


def llama_like() -> sp_pb2.ModelProto:
    """Llama's blanks: runs of 2 to 16, but 15, have the lowest score and ids before all merges."""
    model = train()
    pieces = [piece for piece in model.pieces if set(piece.piece) != {"▁"}]
    runs = [
        KIND(piece="▁" * length, score=-1e9, type=KIND.NORMAL)
        for length in (2, 4, 8, 5, 16, 6, 12, 13, 10, 14, 3, 9, 7, 11)
    ]
    del model.pieces[:]
    model.pieces.extend(pieces[:259] + runs + pieces[259:])
    model.pieces.add(piece="▁", score=-1e9)
    return model


def gemma_like() -> sp_pb2.ModelProto:
    """No prefix; runs of newlines and blanks, and tags, are symbols of their own."""
    own = ["\n", "\n\n", "\n\n\n", "▁▁", "▁▁▁", "▁▁▁▁", "<table>", "|x|"]
    return train(
        add_dummy_prefix=False, user_defined_symbols=own, pad_id=0, eos_id=1, bos_id=2, unk_id=3
    )


MODELS = {
    "llama": llama_like,
    "gemma": gemma_like,
    "own symbols and a prefix": lambda: train(user_defined_symbols=["\t", "▁▁▁", "+*"]),
    "normalised": lambda: train(normalization_rule_name="nmt_nfkc", remove_extra_whitespaces=True),
    "unigram": lambda: train(model_type="unigram"),
    "without bytes": lambda: train(byte_fallback=False),
}


def save(folder, model, **config):
    folder.mkdir(parents=True)
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def load(folder):
    return load_tokenizer(str(folder), model_max_length=900)


def texts(number):
    rng = random.Random(1)
    return ["".join(rng.choices(LETTERS, k=rng.randint(1, 40))) for _ in range(number)]


def package(model, *, prefix=True):
    changed = sp_pb2.ModelProto.FromString(model.SerializeToString())
    changed.normalizer_spec.add_dummy_prefix &= prefix
    return sentencepiece.SentencePieceProcessor(model_proto=changed.SerializeToString())


def differing(tokenizer, texts, expected):
    found = tokenizer(texts, add_special_tokens=False).input_ids
    return [text for text, a, b in zip(texts, found, expected, strict=True) if a != b]


@pytest.fixture(scope="module")
def llama():
    return llama_like()


@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "not-legacy"])
def test_3000_strings(llama, legacy, tmp_path):
    """Read here, and exported and opened by stock transformers."""
    tokenizer = load(save(tmp_path / "llm", llama, legacy=legacy))
    write_tokenizer(tmp_path / "out", with_image_token(tokenizer), "")
    (tmp_path / "out/config.json").write_text(json.dumps({"model_type": "llava"}))
    strings = texts(3000)
    first = package(llama).encode(strings)
    # After a special token the slow tokenizer puts a prefix with `legacy` alone.
    second = package(llama, prefix=legacy).encode(strings)
    both = [[*one, 2, *other] for one, other in zip(first, second, strict=True)]
    for reader in (tokenizer, AutoTokenizer.from_pretrained(tmp_path / "out")):
        assert differing(reader, strings, first) == []
        assert differing(reader, [f"{text}</s>{text}" for text in strings], both) == []
        assert reader("a").input_ids == [1, *package(llama).encode("a")]


@pytest.mark.parametrize("model_type", ["llama", "mistral", "gemma", "phi3"])
def test_no_model_type_takes_the_prefix_away(llama, model_type, tmp_path):
    folder = save(tmp_path / "llm", llama, tokenizer_class="LlamaTokenizer")
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    strings = ["a cat", " a  cat\n    b", *texts(50)]
    expected = package(llama).encode(strings)
    assert differing(load(folder), strings, expected) == []
    (folder / "config.json").write_text(json.dumps({"model_type": "llava"}))
    asked = load_training_tokenizer(str(folder), model_type=model_type)
    assert differing(asked, strings, expected) == [] and asked.name_or_path == str(folder)
    write_tokenizer(tmp_path / "out", asked, "")
    (tmp_path / "out/config.json").write_text(json.dumps({"model_type": model_type}))
    stock = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert differing(stock, strings, expected) == []


@pytest.mark.parametrize("name", MODELS)
def test_other_models(name, tmp_path):
    model = MODELS[name]()
    tokenizer = load(save(tmp_path / "llm", model, legacy=None))
    assert differing(tokenizer, texts(1000), package(model).encode(texts(1000))) == []
    if name != "normalised":  # that goes with `legacy` alone
        load(save(tmp_path / "not legacy", model, legacy=False))  # compares by itself, on less
    ids = package(model).encode("2 of   café (3)")
    assert tokenizer.decode(ids) == package(model).decode(ids)


def test_names_and_numbers_beside_the_model(llama, tmp_path):
    """Files of all ages: tokens named as normalised, added by number, and put over a piece."""
    folder = save(tmp_path / "llm", llama, eos_token="<|end|>", add_bos_token=False)
    size = len(llama.pieces)
    (folder / "added_tokens.json").write_text(json.dumps({"<|b|>": size + 1, "<|end|>": size}))
    token = {"content": "<s>", "normalized": True, "lstrip": False, "rstrip": True}
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": token}))
    tokenizer = load(folder)
    read = package(llama).encode
    assert tokenizer.eos_token_id == size and tokenizer.bos_token_id == 1
    assert tokenizer("a<s>  b<|end|> c<|b|>").input_ids == [
        *read("a"), 1, *read("b"), size, *read(" c"), size + 1
    ]  # fmt: skip

    decoder = {"5": {"content": "<|over|>", "special": True}}
    tokenizer = load(save(tmp_path / "over", llama, added_tokens_decoder=decoder))
    assert tokenizer("a<|over|>").input_ids == [1, *read("a"), 5]
    decoder = {str(size + 7): {"content": "<|far|>", "special": True}}
    with pytest.raises(UserError, match=rf"far: .*<|far|>.* id {size + 7}"):
        load(save(tmp_path / "far", llama, added_tokens_decoder=decoder))


def test_a_model_that_cannot_be_met_is_an_error_with_the_text(llama, tmp_path):
    """SentencePiece merges pieces of one score from the left, wherever they stand."""
    model = sp_pb2.ModelProto.FromString(llama.SerializeToString())
    for piece in model.pieces:
        piece.score = 0
    with pytest.raises(UserError, match=r"llm: its tokenizer.model .* in '.+' comes .* instead of"):
        load(save(tmp_path / "llm", model))
    words = train(model_type="word", byte_fallback=False)
    with pytest.raises(UserError, match=r"tokenizer.model: .* words"):
        load(save(tmp_path / "words", words))


def test_tokenizer_json_keeps_its_first_blank(llama, tmp_path):
    """transformers 5 gives a Llama's another normaliser than transformers 4 wrote."""
    load(save(tmp_path / "llm", llama)).save_pretrained(tmp_path / "json")
    path = tmp_path / "json/tokenizer_config.json"
    path.write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    (tmp_path / "json/config.json").write_text(json.dumps({"model_type": "llama"}))
    tokenizer = load(tmp_path / "json")
    assert differing(tokenizer, texts(300), package(llama).encode(texts(300))) == []
    first, second = package(llama).encode(["a", " b"])
    assert tokenizer("a</s> b").input_ids == [1, *first, 2, *second]
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")


def test_there_is_one_place_that_loads_tokenizers(repo):
    users = {
        path.name
        for path in (repo / "llava_sea").rglob("*.py")
        if re.search(r"load_pretrained\(\s*AutoTokenizer", path.read_text())
    }
    assert users == {"load_sentencepiece.py"}
