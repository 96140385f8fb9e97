"""The world's CLIP: a `CLIPModel` trained from scratch on pictures and texts of training scenes.

Symmetric InfoNCE over pictures and texts (CLIP's loss), with pairs off the diagonal that are true
by the world's own knowledge left out of the negatives. The tokenizer is CLIP's (lower-cased BPE,
``</w>`` at word ends) trained on the world's words. EOS must not have id 2: transformers would then
pool the text at the largest id, a rule kept for old checkpoints, and cut captions at random words.
"""

# Shape letters: B pairs in a batch, H picture side, C channels.

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
)

from playground.contrast import draw_batch
from playground.corpus import all_words, sample_captions
from playground.distractors import distractors
from playground.training import STATE_FOLDER, Schedule, fit, training_device
from playground.world import PATCH_SIDE, PICTURE_SIDE

MODEL_FOLDER = Path(__file__).parent / "models" / "clip"

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
"""OpenAI CLIP's, so that the processor is one users know."""

BATCH = 128


@dataclass(frozen=True)
class Lesson:
    """A part of the training: a schedule of its own and what its batches are like.

    The first `early` share of the steps is pairs of kind and colour alone, later `pairs` of the
    batches are; `ground` is the share of short texts that name the background (or sign) alone;
    `patches` of the 64 patches of a picture are seen; `empty` is the share of pictures without
    things.
    """

    schedule: Schedule
    early: float
    pairs: float
    ground: float
    patches: int
    empty: float = 0.0


LESSONS = (
    Lesson(
        Schedule(steps=1400, learning_rate=1.5e-3),
        early=0.2,
        pairs=0.25,
        ground=0.25,
        patches=24,
        empty=0.1,
    ),
    Lesson(
        Schedule(steps=1200, learning_rate=1.2e-3, warmup=20),
        early=0.0,
        pairs=0.05,
        ground=0.5,
        patches=32,
        empty=0.25,
    ),
)
"""Kinds and colours first (backgrounds unnamed), then everything with the backgrounds named."""

LARGEST_LOGIT_SCALE = math.log(100.0)

BOS_TOKEN, EOS_TOKEN = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], vocab_size: int = 1400) -> CLIPTokenizer:
    """Train a CLIP tokenizer in which every word of the world is one token."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=EOS_TOKEN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=1,
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    learned = tokenizer.model.__getstate__()  # the trained tables, as JSON
    return _clip_tokenizer(learned, alphabet)


def _clip_tokenizer(learned: bytes, alphabet: list[str]) -> CLIPTokenizer:
    """Order the vocabulary as CLIP does: letters, letters at word ends, merges, BOS, EOS."""
    merges: Any = [
        tuple(m.split(" ")) if isinstance(m, str) else tuple(m)
        for m in json.loads(learned)["merges"]
    ]
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    tokens += ["".join(merge) for merge in merges]
    tokens = [*dict.fromkeys(tokens), BOS_TOKEN, EOS_TOKEN]
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(
        vocab=vocab,
        merges=merges,
        bos_token=BOS_TOKEN,
        eos_token=EOS_TOKEN,
        unk_token=EOS_TOKEN,
        pad_token=EOS_TOKEN,
        model_max_length=77,
    )


def make_processor() -> CLIPImageProcessorPil:
    """The image transform: shortest edge to 64, centre crop 64, CLIP's mean and deviation."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": PICTURE_SIDE},
        crop_size={"height": PICTURE_SIDE, "width": PICTURE_SIDE},
        image_mean=list(PIXEL_MEAN),
        image_std=list(PIXEL_STD),
        do_convert_rgb=True,
    )


def make_config(tokenizer: CLIPTokenizer) -> CLIPConfig:
    """The sizes of the model: about 0.9 M parameters."""
    eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    assert eos != 2, "EOS id 2 switches transformers to pooling at the largest id"
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=64,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=eos,
    )
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=PICTURE_SIDE,
        patch_size=PATCH_SIDE,
        projection_dim=64,
    )
    return CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=64)


def normalise_pixels(pixels_BHHC: NDArray[np.uint8]) -> torch.Tensor:
    """Turn drawn pictures into the model's input ``(B, C, H, H)``, as the processor would."""
    pixels = torch.from_numpy(pixels_BHHC).permute(0, 3, 1, 2).float() / 255.0
    mean = torch.tensor(PIXEL_MEAN)[:, None, None]
    return (pixels - mean) / torch.tensor(PIXEL_STD)[:, None, None]


def embed_pictures(
    model: CLIPModel, pixels_BCHH: torch.Tensor, keep: int, generator: torch.Generator
) -> torch.Tensor:
    """Embed pictures from a random part of their patches (as FLIP does).

    What is left of a thing must then tell what it is, so that a patch alone learns to, and a step
    costs less.

    Args:
        model: the CLIP.
        pixels_BCHH: normalised pictures.
        keep: patches kept of each.
        generator: decides which.

    Returns:
        ``(B, D)``, not normalised.
    """
    vision = model.vision_model
    tokens = vision.embeddings(pixels_BCHH)
    batch, width = len(tokens), tokens.shape[-1]
    drawn_BP = torch.rand(batch, tokens.shape[1] - 1, generator=generator)
    kept_BK = drawn_BP.topk(keep, dim=1).indices.to(tokens.device) + 1
    kept = tokens.gather(1, kept_BK[..., None].expand(-1, -1, width))
    x = vision.pre_layrnorm(torch.cat([tokens[:, :1], kept], dim=1))
    for block in vision.encoder.layers:
        x = block(x, attention_mask=None)
    embedding: torch.Tensor = model.visual_projection(vision.post_layernorm(x[:, 0]))
    return embedding


def contrastive_loss(logits_BT: torch.Tensor, fits_BB: torch.Tensor) -> torch.Tensor:
    """Symmetric InfoNCE with the diagonal as positives and other true pairs left out.

    Args:
        logits_BT: pictures by texts; texts beyond B fit no picture.
        fits_BB: which texts are true of which pictures.
    """
    size = len(fits_BB)
    others = fits_BB & ~torch.eye(size, dtype=torch.bool, device=fits_BB.device)
    others_BT = nn.functional.pad(others, (0, logits_BT.shape[1] - size))
    logits_BT = logits_BT.masked_fill(others_BT, -1e4)
    target_B = torch.arange(size, device=fits_BB.device)
    rows = nn.functional.cross_entropy(logits_BT, target_B)
    return (rows + nn.functional.cross_entropy(logits_BT[:, :size].T, target_B)) / 2


def train_clip(
    folder: Path = MODEL_FOLDER,
    *,
    lessons: tuple[Lesson, ...] = LESSONS,
    batch: int = BATCH,
    seed: int = 0,
    resume: bool = False,
    state_folder: Path = STATE_FOLDER,
) -> float:
    """Train the CLIP and write its folder; return the seconds it took."""
    torch.manual_seed(seed)
    words = [*all_words(), *distractors()]
    tokenizer = train_tokenizer([*sample_captions(20_000, seed), *words])
    model = CLIPModel(make_config(tokenizer))
    device = training_device()
    seconds, first = 0.0, 0
    for number, lesson in enumerate(lessons):

        def loss_of_step(step: int, lesson: Lesson = lesson, first: int = first) -> torch.Tensor:
            pairs = 1.0 if step < lesson.early * lesson.schedule.steps else lesson.pairs
            rng = random.Random(f"clip/{seed}/{first + step}")
            drawn = draw_batch(rng, batch, pairs=pairs, ground=lesson.ground, empty=lesson.empty)
            texts = [*drawn.texts, *drawn.wrong_texts]
            tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(device)
            pixels = normalise_pixels(drawn.pixels_BHHC).to(device)
            fits_BB = torch.from_numpy(drawn.fits_BB).to(device)
            generator = torch.Generator().manual_seed(first + step)
            image_BD = embed_pictures(model, pixels, lesson.patches, generator).float()
            text_TD = model.get_text_features(**tokens).pooler_output.float()
            with torch.no_grad():
                model.logit_scale.clamp_(max=LARGEST_LOGIT_SCALE)
            image_BD, text_TD = (nn.functional.normalize(x, dim=-1) for x in (image_BD, text_TD))
            logits_BT = model.logit_scale.exp() * image_BD @ text_TD.T
            return contrastive_loss(logits_BT, fits_BB)

        seconds += fit(
            f"clip-{number + 1}",
            model,
            loss_of_step,
            lesson.schedule,
            resume=resume,
            state_folder=state_folder,
        )
        first += lesson.schedule.steps
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    make_processor().save_pretrained(folder)
    return seconds
