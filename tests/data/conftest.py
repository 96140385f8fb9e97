"""Tokenizers and an image folder, small enough to work out by hand what must come of them."""

import random
import zlib

import numpy as np
import pytest
from sentencepiece import sentencepiece_model_pb2 as sp_pb2
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llava_sea.alignment.label_store import LabelStore, finalize_store, write_shard
from llava_sea.conversation import TEMPLATES
from llava_sea.data.images import ImageTransform
from llava_sea.data.records import Record, Turn
from tests import worlds

TEXT = """
a chat between curious user and an artificial intelligence assistant the gives helpful
detailed polite answers to questions USER ASSISTANT: : . , ' red blue kettle circle square
small large what is in this boat sail white how many café
"""


def save_llama_folder(model: sp_pb2.ModelProto, folder, *, legacy: bool):
    """Write a tokenizer folder as Llama's and Vicuna's are."""
    changes = {"add_bos_token": True, "add_eos_token": False, "pad_token": "<unk>"}
    changes |= {"clean_up_tokenization_spaces": False, "model_max_length": 2048}
    worlds.save_llama_tokenizer(folder, model.SerializeToString(), legacy=legacy, **changes)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.legacy is legacy
    return tokenizer


def by_hand() -> sp_pb2.ModelProto:
    """A Llama-like BPE model whose merges are listed here: whole words build up from the left."""
    model = sp_pb2.ModelProto()
    model.trainer_spec.model_type = sp_pb2.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = False
    merges = [
        word[:end]
        for word in ("▁a", "▁red", "▁kettle", "▁boat", "▁is", "▁what", "▁3", "▁ASSISTANT")
        for end in range(2, len(word) + 1)
    ]
    # In Llama's vocabulary "▁USER" takes two pieces and "USER" one; LLaVA's counting relies on it.
    merges += ["US", "ER", "▁US", "USER"]
    letters = "▁ abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;?!'-"
    kind = sp_pb2.ModelProto.SentencePiece
    pieces = [("<unk>", kind.UNKNOWN), ("<s>", kind.CONTROL), ("</s>", kind.CONTROL)]
    pieces += [(f"<0x{byte:02X}>", kind.BYTE) for byte in range(256)]
    pieces += [
        (piece, kind.NORMAL) for piece in dict.fromkeys([*merges, *letters.replace(" ", "")])
    ]
    for rank, (piece, piece_type) in enumerate(pieces):
        score = float(-rank) if piece_type == kind.NORMAL else 0.0
        model.pieces.add(piece=piece, score=score, type=piece_type)
    return model


def trained() -> sp_pb2.ModelProto:
    """A model trained as Llama's was, with Llama's pieces for USER."""
    rng = random.Random(0)
    lines = [" ".join(rng.choices(TEXT.split(), k=rng.randint(3, 14))) for _ in range(2000)]
    model = sp_pb2.ModelProto.FromString(worlds.sentencepiece_model(lines, 400))
    pieces = [
        p for p in model.pieces if p.piece not in ("▁USER", "▁USE", "USER", "▁US", "US", "ER")
    ]
    lowest = min(p.score for p in pieces)
    del model.pieces[:]
    model.pieces.extend(pieces)
    for step, piece in enumerate(("US", "ER", "▁US", "USER"), 1):
        model.pieces.add(piece=piece, score=lowest - step)
    return model


@pytest.fixture(scope="session", params=[True, False], ids=["legacy", "not_legacy"])
def hand_tokenizer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("by_hand") / "tokenizer"
    return save_llama_folder(by_hand(), folder, legacy=request.param)


@pytest.fixture(scope="session", params=[True, False], ids=["legacy", "not_legacy"])
def trained_tokenizer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "tokenizer"
    return save_llama_folder(trained(), folder, legacy=request.param)


@pytest.fixture(scope="session")
def byte_level_tokenizer():
    """GPT-2's and Qwen's kind: byte-level BPE, no BOS, an end token."""
    corpus = [" ".join(TEXT.split())] * 20
    return worlds.byte_level(corpus, ["</s>"], eos_token="</s>", pad_token="</s>")


SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LINES = [
    "a red boat",
    "a\n\n\nb",
    "is it\n\n\n\n",
    "x\n \nb",
    "  a b",
    "\n\n",
    "yes\n\n\n",
    "a.\n\n",
]
CHATML = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
HEADERS = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def _fast(tokenizer: Tokenizer, special: list[str], eos: str, **options) -> Tokenizer:
    byte_level = isinstance(tokenizer.decoder, decoders.ByteLevel)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<unk>", *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        if byte_level
        else [*map(chr, range(33, 127)), *"▁é\t\n"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, **options)


def llama_3() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(SPLIT.format(digits="{1,3}")), "isolated")
    own = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, own])
    tokenizer.decoder = decoders.ByteLevel()
    result = _fast(tokenizer, HEADERS, "<|eot_id|>", bos_token=HEADERS[0])
    bos = (HEADERS[0], result.convert_tokens_to_ids(HEADERS[0]))
    result.backend_tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos]),
        ]
    )
    return result


def qwen() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(SPLIT.format(digits="")), "isolated")
    own = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, own])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    result = _fast(tokenizer, CHATML, "<|im_end|>")
    result.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
    return result


def gpt_2() -> PreTrainedTokenizerFast:
    """SmolLM2's kind; of two line breaks before a word its rule makes two pieces, alone one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return _fast(tokenizer, [*CHATML, *HEADERS], "<|im_end|>")


def gemma() -> PreTrainedTokenizerFast:
    """Runs of line breaks are added tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    special = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
    result = _fast(tokenizer, special, "<eos>", bos_token="<bos>")
    runs = ["\n" * count for count in range(2, 6)]
    result.add_tokens([AddedToken(run, special=False, normalized=False) for run in runs])
    return result


def phi_3() -> PreTrainedTokenizerFast:
    """Role tokens take the white space after them; the end token is not marked as special."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    result = _fast(tokenizer, ["<s>"], "<|endoftext|>")
    roles = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"]
    tokens = [AddedToken(role, special=True, normalized=False, rstrip=True) for role in roles]
    result.add_tokens(tokens)
    result.add_tokens([AddedToken("</s>", special=False, normalized=False, rstrip=True)])
    return result


def metaspace(scheme: str) -> PreTrainedTokenizerFast:
    """SentencePiece's kind, with merged line breaks; `scheme` is `first` or (legacy) `always`."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme, split=False)
    return _fast(tokenizer, ["<s>", "</s>", *CHATML], "</s>", bos_token="<s>")


# Small tokenizers of the kinds that LLMs have: how to make one, and the ``--version`` to try.
KINDS = {
    "llama_3": (llama_3, "llama_3"),
    "qwen": (qwen, "qwen"),
    "smollm2": (gpt_2, "qwen"),
    "gpt_2_llama_3": (gpt_2, "llama_3"),
    "gemma": (gemma, "gemma"),
    "phi_3": (phi_3, "phi3"),
    "legacy": (lambda: metaspace("always"), "chatml_direct"),
    "not_legacy": (lambda: metaspace("first"), "chatml_direct"),
    "v1": (lambda: metaspace("first"), "v1"),
}


@pytest.fixture(scope="session", params=KINDS)
def kind(request):
    """A tokenizer with the rules of a kind that matter at borders, and a template for it."""
    make, version = KINDS[request.param]
    return make(), TEMPLATES[version]


@pytest.fixture(scope="session")
def clip_transform():
    """16 x 16 pixels, for a grid of 4 x 4 patches."""
    return ImageTransform(worlds.clip_processor(16), "square")


@pytest.fixture(scope="session")
def plain():
    return TEMPLATES["plain"]


class World:
    """Six images, of which mining had to skip the last; a record each, and one of text."""

    words = ("red", "kettle", "boat", "red kettle")
    grid = (4, 4)

    def __init__(self, folder):
        self.folder = folder
        rng = np.random.default_rng(7)
        names = [f"{n}.png" for n in range(6)]
        worlds.save_images(folder / "images", names, (16, 16), rng)
        crcs = [zlib.crc32((folder / "images" / name).read_bytes()) for name in names]
        ids = rng.integers(0, len(self.words), (6, 16, 3))
        scores = rng.uniform(-0.5, 1, (6, 16, 3)).astype(np.float32)
        scores[5] = 0
        store = folder / "labels"
        store.mkdir()
        write_shard(store, 0, names, ids, scores, np.array(crcs), {names[5]: "truncated"})
        finalize_store(store, {"grid": list(self.grid), "top_n": 3}, 1)
        self.store = LabelStore(store)
        self.records = [
            Record(n, f"id{n}", name, (Turn("human", "<image>"), Turn("gpt", f"a red {n}")))
            for n, name in enumerate(names)
        ]
        self.text_record = Record(6, "text", None, (Turn("human", "what"), Turn("gpt", "a boat")))


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)
