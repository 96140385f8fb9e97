"""Small random vision towers of every kind that is known, as folders like the hub's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Aimv2Config,
    Aimv2Model,
    Aimv2VisionConfig,
    Aimv2VisionModel,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    MetaClip2Config,
    MetaClip2Model,
    Siglip2Config,
    Siglip2Model,
    Tipsv2Config,
    Tipsv2Model,
)
from transformers.models.tipsv2 import Tipsv2Tokenizer

from tests import worlds

_VIT = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3, "patch_size": 6}
_MLP = {"intermediate_size": 64}
_TEXT = worlds.SHAPE | {"num_hidden_layers": 2, "vocab_size": 64, "max_position_embeddings": 16}


def shake(model: Any) -> Any:
    """Give biases, norms and registers values that matter: fresh ones are zeros and ones."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def write_processor(folder: Path, kind: str, height: int, width: int, **changes: Any) -> None:
    """Write the preprocessor_config.json of a processor that transformers has for torchvision."""
    settings = {
        "image_processor_type": kind,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": height, "width": width},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | changes))


def save_tower(folder: Path, model: Any, side: int) -> Path:
    """Write a tower, shaken, with CLIP's processor."""
    shake(model).save_pretrained(folder)
    worlds.clip_processor(side).save_pretrained(folder)
    return folder


def registers(folder: Path, side: int = 30) -> Path:
    """DINOv2 with 2 registers."""
    config = Dinov2WithRegistersConfig(**_VIT, image_size=side, mlp_ratio=2, num_register_tokens=2)
    return save_tower(folder, Dinov2WithRegistersModel(config), side)


def dinov3(folder: Path, height: int = 24, width: int = 36) -> Path:
    """DINOv3 with 4 registers, for images that are no squares."""
    size = {"image_size": [height, width], "num_register_tokens": 4}
    shake(DINOv3ViTModel(DINOv3ViTConfig(**_VIT | _MLP, **size))).save_pretrained(folder)
    write_processor(folder, "DINOv3ViTImageProcessorFast", height, width, image_mean=[0.4] * 3)
    return folder


def aimv2(folder: Path, side: int = 30) -> Path:
    """AIMv2 without its head, as the hub's are."""
    config = Aimv2VisionConfig(**_VIT | _MLP, image_size=side, use_head=False)
    return save_tower(folder, Aimv2VisionModel(config), side)


def aimv2_pair(folder: Path, side: int = 24) -> Path:
    """AIMv2 with its head and the text half that it was tuned with."""
    vision = _VIT | _MLP | {"image_size": side}
    config = Aimv2Config(vision_config=vision, text_config=_TEXT, projection_dim=16)
    return save_tower(folder, Aimv2Model(config), side)


def metaclip_2(folder: Path, side: int = 24) -> Path:
    """MetaCLIP 2, both halves."""
    config = MetaClip2Config(
        vision_config=_VIT | _MLP | {"image_size": side, "projection_dim": 16},
        text_config=_TEXT | {"bos_token_id": 0, "eos_token_id": 1, "projection_dim": 16},
        projection_dim=16,
    )
    return save_tower(folder, MetaClip2Model(config), side)


def naflex(folder: Path) -> Path:
    """SigLIP 2 for images of any shape, both halves, with a tokenizer; 3 x 3 positions."""
    text = _TEXT | {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    vision = _VIT | _MLP | {"num_patches": 9}
    model = Siglip2Model(Siglip2Config(vision_config=vision, text_config=text))
    shake(model).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    settings = {"image_processor_type": "Siglip2ImageProcessorFast", "patch_size": 6}
    settings |= {"max_num_patches": 9, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def tipsv2_model(side: int = 24, vocab_size: int = 64, **vision: Any) -> Tipsv2Model:
    """A random TIPSv2."""
    text = _TEXT | {"vocab_size": vocab_size}
    vision = _VIT | {"mlp_ratio": 2, "image_size": side} | vision
    return shake(Tipsv2Model(Tipsv2Config(vision_config=vision, text_config=text)))


def tipsv2(folder: Path, side: int = 24, model: Tipsv2Model | None = None) -> Path:
    """TIPSv2, both halves, with its tokenizer; images are stretched and not normalised."""
    (model or tipsv2_model(side)).save_pretrained(folder)
    write_processor(folder, "Tipsv2ImageProcessor", side, side, do_normalize=False)
    tokenizer().save_pretrained(folder)
    return folder


def tokenizer(words: list[str] | None = None) -> Tipsv2Tokenizer:
    """TIPSv2's kind: BPE in lower case without an end; `words` are one token each."""
    letters = ["<pad>", "<unk>", "\u2581", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = dict.fromkeys(letters)
    merges = []
    for word in words or []:
        begun = "\u2581"
        for letter in word:
            merges.append((begun, letter))
            begun += letter
            vocabulary[begun] = None
    vocab = {token: number for number, token in enumerate(vocabulary)}
    return Tipsv2Tokenizer(vocab, list(dict.fromkeys(merges)), model_max_length=16)


KINDS: dict[str, Callable[[Path], Path]] = {
    "clip": worlds.save_clip,
    "siglip": worlds.save_siglip,
    "dinov2": lambda folder: worlds.save_dinov2(folder, cut_off=0),
    "dinov2_with_registers": registers,
    "dinov3": dinov3,
    "aimv2": aimv2,
    "metaclip_2": metaclip_2,
    "tipsv2": tipsv2,
}
