"""A corpus of small images and an untrained CLIP, as files, and the work of a rank."""

import dataclasses
import json
import os
import zlib
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    PreTrainedTokenizerFast,
)

from llava_sea import processes
from llava_sea.alignment import LabelStore
from llava_sea.data.images import ImageTransform, load_image
from llava_sea.errors import ERROR_FILE
from llava_sea.labels import claims, extract
from llava_sea.labels.options import ExtractOptions
from llava_sea.labels.patch_features import PatchEncoder
from llava_sea.labels.text_features import TextEncoder

TOWER = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
NAMES = [f"w{i}" for i in range(60)]


def word_tokenizer(words, end=True):
    """A token a word, and the end that CLIP reads its result at."""
    vocabulary = ["<pad>", "<bos>", "<unk>", "<eos>", *words]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if end:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 3)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", model_max_length=9
    )


def make_world(folder, count=24):
    """Write model, images, data and word list below `folder`."""
    torch.manual_seed(0)
    text = CLIPTextConfig(**TOWER, vocab_size=80, max_position_embeddings=9, eos_token_id=3)
    vision = CLIPVisionConfig(**TOWER, image_size=24, patch_size=8)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)
    CLIPModel(config).save_pretrained(folder / "clip")
    word_tokenizer(NAMES).save_pretrained(folder / "clip")
    CLIPImageProcessorPil(
        size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}
    ).save_pretrained(folder / "clip")

    rng = np.random.default_rng(0)
    (folder / "images" / "sub").mkdir(parents=True)
    records = []
    for i in range(count):
        name = f"sub/{i}.png" if i % 2 else f"{i}.jpg"
        pixels = rng.integers(0, 255, (20 + i, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / name)
        records.append(record(f"r{i}", name, f"a {NAMES[i % 60]}"))
    records.insert(3, {**record("text", None, "no image"), "image": None})
    records.append(record("again", records[0]["image"], "the first image again"))
    (folder / "data.json").write_text(json.dumps(records))
    rows = [f"{word}\t{200 - i}\tNN" for i, word in enumerate(NAMES)]
    rows.append("w1 w2 w3 w4 w5 w6 w7 w8 w9\t1\tNP")  # longer than the tower's context
    (folder / "words.tsv").write_text("word\tcount\tpos\n" + "\n".join(rows) + "\n")


def options_of(folder):
    """The options for a world, or for a copy of one."""
    return ExtractOptions(
        data_path=str(folder / "data.json"),
        image_folder=str(folder / "images"),
        vision_tower=str(folder / "clip"),
        words=str(folder / "words.tsv"),
        output_dir=str(folder / "labels"),
        sea_sign="+1",
        sea_top_n=5,
        sea_caption_share=0.0,
        batch_size=4,
        shard_size=5,
        device="cpu",
    )


def run_rank(options, launcher=None, hosts=False):
    """The work of a forked rank.

    `launcher` is the process that it takes for its launcher; `hosts`: each is on its own machine,
    whose processes the others can't see.
    """
    os.environ[ERROR_FILE] = options.data_path + ".errors"
    if hosts:
        name = f"host {os.environ['RANK']}"
        claims.host_name = lambda: name
        claims.SILENCE_S = 3.0
    if launcher is not None:
        processes.launchers = lambda: [psutil.Process(launcher)]
    extract.extract_labels(options, processes.Processes.here())


def record(record_id, image, caption):
    question = "<image>\nWhat is it?" if image else "What is it?"
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": caption}]
    return {"id": record_id, "image": image, "conversations": turns}


def encoded(options):
    """Value features of every image by name, and of the words that fit the text tower."""
    encoder = PatchEncoder.from_pretrained(options.vision_tower)
    transform = ImageTransform.from_pretrained(options.vision_tower, "square")
    records = json.loads(Path(options.data_path).read_text())
    patches = {}
    for name in dict.fromkeys(r["image"] for r in records if r["image"]):
        pixels = transform(load_image(options.image_folder, name, "x").image)
        patches[name] = encoder.encode_images(pixels[None], "value")[0]
    texts = TextEncoder.from_pretrained(options.vision_tower, encoder.model)
    return patches, torch.from_numpy(texts.encode_words(NAMES).features_QD)


def file_crc(options, image):
    with open(f"{options.image_folder}/{image}", "rb") as file:
        return zlib.crc32(file.read())


def using(options, **changes):
    return dataclasses.replace(options, **changes)


def same_store(a, b):
    """Every array of the two stores, byte for byte, and what the manifests say of the labels."""
    left, right = LabelStore(a), LabelStore(b)
    names = [p.name for p in sorted(Path(a).glob("*.npy"))]
    assert names == [p.name for p in sorted(Path(b).glob("*.npy"))] and len(names) > 3
    for name in names:
        assert (Path(a) / name).read_bytes() == (Path(b) / name).read_bytes(), name
    return left.manifest == right.manifest
