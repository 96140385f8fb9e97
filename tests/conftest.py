"""A tiny offline world: random CLIP, SigLIP and Llama of the real classes, pictures, labels.

Everything is made once a session; tests copy what they change.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sentencepiece
import torch
from hypothesis import settings
from PIL import Image

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
REPO = Path(__file__).parent.parent

# How long an example takes depends on what else the machine does.
settings.register_profile("llava_sea", deadline=None)
settings.load_profile("llava_sea")

COLOURS = ["red", "green", "blue", "black"]
THINGS = ["ball", "box", "kite", "house", "tree"]


@pytest.fixture(autouse=True)
def no_engine_left_over() -> Iterator[None]:
    """Forget a DeepSpeed configuration that a test has parsed: under ZeRO-3's, models partition."""
    yield
    integration = sys.modules.get("transformers.integrations.deepspeed")
    if integration is not None:
        integration.unset_hf_deepspeed_config()


@pytest.fixture
def file_limit() -> Callable[[int], None]:
    """Set the largest size of a file, as ulimit -f does, until the test ends."""
    return lambda size: resource.setrlimit(
        resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Take a test's limit back before pytest reports: its own output may be a larger file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        return (yield)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture(scope="session")
def repo() -> Path:
    """The checkout."""
    return REPO


def _save_llm(folder: Path, captions: list[str]) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer

    folder.mkdir()
    (folder / "corpus.txt").write_text("\n".join(captions))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=340,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    LlamaTokenizer.from_pretrained(folder).save_pretrained(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=360,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def _save_towers(root: Path) -> None:
    from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel
    from transformers.models.clip import CLIPImageProcessorPil
    from transformers.models.siglip import SiglipImageProcessorPil

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    torch.manual_seed(2)
    vision = shape | {"num_hidden_layers": 3, "image_size": 24, "patch_size": 6}
    text = shape | {"num_hidden_layers": 2, "vocab_size": 64, "max_position_embeddings": 16}
    clip = CLIPConfig(
        vision_config=vision | {"projection_dim": 16},
        text_config=text | {"bos_token_id": 0, "eos_token_id": 1, "projection_dim": 16},
        projection_dim=16,
    )
    CLIPModel(clip).save_pretrained(root / "clip")
    CLIPImageProcessorPil(
        size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}
    ).save_pretrained(root / "clip")
    SiglipModel(SiglipConfig(vision_config=vision, text_config=text)).save_pretrained(
        root / "siglip"
    )
    SiglipImageProcessorPil(size={"height": 24, "width": 24}).save_pretrained(root / "siglip")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Folders ``clip``, ``siglip``, ``llm``, ``images``, files ``pretrain.json``, ``words.tsv``."""
    root = tmp_path_factory.mktemp("tiny world")  # a space in the path, as users have
    rng = np.random.default_rng(0)
    words = [f"{c} {t}" for c in COLOURS for t in THINGS] + COLOURS + THINGS
    records, captions = [], []
    (root / "images").mkdir()
    for number in range(24):
        colour, thing = rng.choice(COLOURS), rng.choice(THINGS)
        caption = f"a {colour} {thing} beside a {rng.choice(COLOURS)} {rng.choice(THINGS)}"
        name = f"{number:03d}.{'png' if number % 2 else 'jpg'}"
        pixels = rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / name)
        captions.append(caption)
        records.append(
            {
                "id": f"rec-{number}",
                "image": name,
                "conversations": [
                    {"from": "human", "value": "Describe it.\n<image>"},
                    {"from": "gpt", "value": caption},
                ],
            }
        )
    (root / "pretrain.json").write_text(json.dumps(records))
    (root / "heldout.json").write_text(json.dumps(records[:5]))
    lines = ["word\tcount\tpos"] + [f"{word}\t{99 - n}\tNN" for n, word in enumerate(words)]
    (root / "words.tsv").write_text("\n".join(lines) + "\n")
    _save_llm(root / "llm", captions * 3)
    _save_towers(root)
    return SimpleNamespace(
        root=root,
        clip=root / "clip",
        siglip=root / "siglip",
        llm=root / "llm",
        images=root / "images",
        data=root / "pretrain.json",
        heldout=root / "heldout.json",
        words=root / "words.tsv",
        records=records,
        word_list=words,
    )


@pytest.fixture(scope="session")
def grown_llm(tiny: SimpleNamespace) -> Path:
    """An LLM whose tokenizer has a ``[PAD]`` and an ``<extra>`` that its embedding table lacks."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tiny.root / "grown llm"
    tokenizer = AutoTokenizer.from_pretrained(tiny.llm)
    config = LlamaConfig.from_pretrained(tiny.llm, vocab_size=len(tokenizer))
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(folder)
    return folder


def make_store(tiny: SimpleNamespace, tower: str, folder: Path, top_n: int = 3) -> Path:
    """Write a label store with random labels that fits `tower`."""
    import zlib

    from transformers import AutoModel

    from llava_sea.alignment import finalize_store, write_shard
    from llava_sea.data.images import ImageTransform
    from llava_sea.labels.patch_features import vision_fingerprint

    folder.mkdir(parents=True)
    path = getattr(tiny, tower)
    vision = AutoModel.from_pretrained(path).vision_model
    patch_weight = next(m for m in vision.modules() if isinstance(m, torch.nn.Conv2d)).weight
    rng = np.random.default_rng(3)
    names = [record["image"] for record in tiny.records]
    shape = (len(names), 16, top_n)
    crc = np.array([zlib.crc32((tiny.images / name).read_bytes()) for name in names])
    write_shard(
        folder, 0, names, rng.integers(0, len(tiny.word_list), shape), rng.random(shape) - 0.2, crc
    )
    words = tiny.words.read_bytes()
    (folder / "words.tsv").write_bytes(words)
    fields = {
        "words_sha256": hashlib.sha256(words).hexdigest(),
        "encoder": str(path),
        "encoder_fingerprint": vision_fingerprint(patch_weight, vision.config),
        "features": "value",
        "sign": 1,
        "top_n": top_n,
        "grid": [4, 4],
        "geometry": ImageTransform.from_pretrained(str(path), "square").geometry(),
    }
    finalize_store(folder, fields, 1)
    return folder


@pytest.fixture(scope="session")
def tiny_labels(tiny: SimpleNamespace) -> Path:
    """A finished label store for the tiny CLIP."""
    return make_store(tiny, "clip", tiny.root / "labels clip")


@pytest.fixture(scope="session")
def tiny_siglip_labels(tiny: SimpleNamespace) -> Path:
    """A finished label store for the tiny SigLIP."""
    return make_store(tiny, "siglip", tiny.root / "labels siglip")


@pytest.fixture(scope="session")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature eight benchmarks."""
    from playground.benchmarks.build import build

    folder = tmp_path_factory.mktemp("benchmarks") / "eval"
    build(folder)
    return folder
