"""Images to patch features in the space that the encoder shares with its text tower (SEA eq. 6).

The model's own modules run up to the last block; there `features` decides:

CLIP, ``y = visual_projection(post_layernorm(z))`` without the class token's row:
    vanilla  z = the last block's output, as printed in the paper
    value    z = out_proj(v), v = v_proj(layer_norm1(x)): each patch attends to itself alone, and
             residual and FFN are left out, for neither ever reaches CLIP's loss from a patch's row
    value2   z = the sum of the last two blocks' value paths, each on its own block's input: both
             are added to the residual stream that the class token is read from
    qq       z = out_proj(softmax(q q' / sqrt(d)) v), likewise without residual and FFN (ClearCLIP)
    qq+kk    the mean of the q-q and the k-k attention in its place (SCLIP)
The class token stays among the keys of qq and qq+kk.

SigLIP has no class token and no projection: a pooling head attends to the patches, so a patch
enters the joint space as the head would see it alone: ``o = out_proj(v_proj(z))``, then
``y = o + mlp(layernorm(o))``, with the head's own weights and z after post_layernorm. There the
last block's full output reaches the loss, and the value path is the head's: ``vanilla`` and
``value`` are one and the same. value2, qq and qq+kk change the last block as in CLIP. The paper
does not say how it used SigLIP.

TIPSv2 has no projection: its patches are trained to lie in the text's space, so a patch enters it
as it leaves the model: ``y = layernorm(z)`` without the rows of the two class tokens. ``vanilla``
and ``value`` are that; the others would take out what it was trained for and are refused.

Limits: the `FAMILIES` (fixed-size SigLIP 2 checkpoints share SigLIP's classes).

Shape letters: B images, T tokens, P patches, H heads, D a width (the joint space's in results).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llava_sea.data.images import pair
from llava_sea.errors import UserError
from llava_sea.labels.options import FEATURES
from llava_sea.model.load_weights import check_model
from llava_sea.model.towers import prefix_tokens
from llava_sea.pretrained import load_pretrained

_SHAPE_FIELDS = ("hidden_size", "num_hidden_layers", "patch_size", "image_size")


def _clip_tokens(vision: Any, pixels_BCHW: Tensor, resized: bool) -> Tensor:
    return vision.pre_layrnorm(vision.embeddings(pixels_BCHW, interpolate_pos_encoding=resized))


def _clip_joint(model: Any, x_BTD: Tensor) -> Tensor:
    return model.visual_projection(model.vision_model.post_layernorm(x_BTD)[:, 1:])


def _siglip_tokens(vision: Any, pixels_BCHW: Tensor, resized: bool) -> Tensor:
    return vision.embeddings(pixels_BCHW, interpolate_pos_encoding=resized)


def _siglip_joint(model: Any, x_BTD: Tensor) -> Tensor:
    vision, head = model.vision_model, model.vision_model.head
    attention = head.attention
    _, _, value_weight = attention.in_proj_weight.chunk(3)
    _, _, value_bias = attention.in_proj_bias.chunk(3)
    value_BPD = F.linear(vision.post_layernorm(x_BTD), value_weight, value_bias)
    o_BPD = attention.out_proj(value_BPD)
    return o_BPD + head.mlp(head.layernorm(o_BPD))


def _tipsv2_tokens(vision: Any, pixels_BCHW: Tensor, resized: bool) -> Tensor:
    return vision.embeddings(pixels_BCHW)  # which interpolates by itself


def _tipsv2_joint(model: Any, x_BTD: Tensor) -> Tensor:
    vision = model.vision_model
    return vision.layernorm(x_BTD)[:, prefix_tokens(vision.config) :]


@dataclass(frozen=True)
class Family:
    """A kind of image encoder with its paired text encoder."""

    model_class: str
    """Transformers' name of it."""
    tokens: Callable[[Any, Tensor, bool], Tensor]
    """(vision tower, pixels, whether of another size than its own) -> the first block's input."""
    joint: Callable[[Any, Tensor], Tensor]
    """(model, a block's output) -> the patches in the joint space, not yet of length 1."""
    joint_size: Callable[[Any], int]
    """Its configuration -> D."""
    text_padding: str
    """How texts of a batch are padded: the ``end`` token again, ``full`` length, or a ``mask``."""
    tokenizer_class: str = ""
    """Transformers' name of its tokenizer, where its files do not say all that it does."""
    layers: str = "layers"
    """Name of the blocks in its vision encoder."""
    features: tuple[str, ...] = FEATURES
    whole: tuple[str, ...] = ("vanilla",)
    """The features that are the last block as it is."""


FAMILIES = {
    "clip": Family("CLIPModel", _clip_tokens, _clip_joint, lambda c: c.projection_dim, "end"),
    "siglip": Family(
        "SiglipModel",
        _siglip_tokens,
        _siglip_joint,
        lambda c: c.text_config.projection_size,
        "full",
        whole=("vanilla", "value"),
    ),
    "tipsv2": Family(
        "Tipsv2Model",
        _tipsv2_tokens,
        _tipsv2_joint,
        lambda c: c.text_config.hidden_size,
        "mask",
        "Tipsv2Tokenizer",  # lower case
        layers="layer",
        features=("vanilla", "value"),
        whole=("vanilla", "value"),
    ),
}
"""By `model_type`."""


class PatchEncoder:
    """The vision side of a paired image-text encoder, read patch by patch."""

    def __init__(self, model: Any) -> None:
        """Wrap a model of one of the `FAMILIES` that is already loaded."""
        self.model = model.eval().requires_grad_(False)
        self.kind: str = model.config.model_type
        if self.kind not in FAMILIES:
            raise UserError(_unpaired(self.kind, type(model).__name__))
        self.family = FAMILIES[self.kind]
        self._vision = model.vision_model
        if self.kind == "siglip" and getattr(self._vision, "head", None) is None:
            raise UserError(
                "this SigLIP has no pooling head (vision_use_head is false), so its patches have "
                "no way into the text space; choose a checkpoint with the head"
            )
        config = model.config.vision_config
        self._patch, self._native = pair(config.patch_size), pair(config.image_size)
        patches = next(m for m in self._vision.modules() if isinstance(m, nn.Conv2d))
        self.fingerprint = vision_fingerprint(patches.weight, config)

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> PatchEncoder:
        """Load a paired encoder; its fingerprint is taken before the cast to `dtype`.

        Raises:
            UserError: if there is no model, it has no text tower, or weights are missing.
        """
        import transformers
        from transformers import AutoConfig

        try:
            kind = load_pretrained(AutoConfig, str(path_or_id)).model_type
        except (OSError, ValueError) as error:
            raise UserError(
                f"no vision tower at {path_or_id}: expected a transformers folder with config.json "
                f"and weights, or a name on the hub ({error})"
            ) from error
        if kind not in FAMILIES:
            raise UserError(_unpaired(kind, str(path_or_id)))
        model_class = getattr(transformers, FAMILIES[kind].model_class)
        check_model(path_or_id)
        try:
            model, info = load_pretrained(
                model_class, str(path_or_id), dtype=torch.float32, output_loading_info=True
            )
        except OSError as error:
            raise UserError(f"cannot load the vision tower {path_or_id}: {error}") from error
        if info["missing_keys"]:
            missing = sorted(info["missing_keys"])
            raise UserError(
                f"{path_or_id} holds no weights for {missing[0]} and {len(missing) - 1} more: "
                "labels need the whole encoder, image and text tower"
            )
        encoder = cls(model)
        encoder.model.to(device=device, dtype=dtype)
        return encoder

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of an image with this many pixels."""
        return height // self._patch[0], width // self._patch[1]

    def check_features(self, features: str) -> None:
        """Refuse features that are not known, or that this encoder does not have.

        Raises:
            UserError: naming those that it has.
        """
        if features not in FEATURES:
            raise UserError(f"unknown features {features!r}; choose one of {', '.join(FEATURES)}")
        if features not in self.family.features:
            raise UserError(
                f"--sea_features {features}: the patches of a {self.kind} lie in the text's space "
                f"as they are; take {' or '.join(self.family.features)} (there the same)"
            )
        if features == "value2" and len(self._blocks) < 2:
            raise UserError("features value2 need two blocks, this vision tower has one")

    def distinct(self, features: Sequence[str]) -> list[str]:
        """Return those of some features that this encoder has; where none is, refuse the first.

        Of a family that has no others than the last block as it is, the last of these alone.
        """
        found = [name for name in features if name in self.family.features]
        if not found:
            self.check_features(features[0])
        return found[-1:] if self.family.features == self.family.whole else found

    @property
    def _blocks(self) -> Any:
        return getattr(self._vision.encoder, self.family.layers)

    @torch.no_grad()
    def encode_images(self, pixel_values_BCHW: Tensor, features: str = "vanilla") -> Tensor:
        """Encode images into one joint-space vector per patch (SEA eq. 6).

        Args:
            pixel_values_BCHW: normalised images of any size, square or not (the position embeddings
                are interpolated where it is not the native one).
            features: one of `FEATURES`; see the module's text.

        Returns:
            ``(B, P, D)`` in row-major order of the grid, rows of length 1; float32 (float64 if
            the model is).

        Raises:
            UserError: if the features are not known, or need a block that is not there.
        """
        self.check_features(features)
        weight = next(self._vision.parameters())
        pixels = pixel_values_BCHW.to(weight.device, weight.dtype)
        x_BTD = self.family.tokens(self._vision, pixels, pixels.shape[-2:] != self._native)
        *blocks, last = self._blocks
        earlier_BTD = x_BTD
        for block in blocks:
            earlier_BTD, x_BTD = x_BTD, block(x_BTD, attention_mask=None)
        if features in self.family.whole:
            x_BTD = last(x_BTD, attention_mask=None)
        elif features == "value2":
            earlier_BTD = _attention(blocks[-1], earlier_BTD, "value")
            x_BTD = earlier_BTD + _attention(last, x_BTD, "value")
        else:
            x_BTD = _attention(last, x_BTD, features)
        joint_BPD = self.family.joint(self.model, x_BTD)
        joint_BPD = joint_BPD.to(torch.promote_types(joint_BPD.dtype, torch.float32))
        return F.normalize(joint_BPD, dim=-1)


def _attention(block: Any, x_BTD: Tensor, features: str) -> Tensor:
    """A block's attention output alone (no residual, no FFN) with the weights of `features`."""
    attention = block.self_attn
    h_BTD = block.layer_norm1(x_BTD)
    v_BTD = attention.v_proj(h_BTD)
    if features == "value":
        return attention.out_proj(v_BTD)
    sources = [attention.q_proj(h_BTD)]
    if features == "qq+kk":
        sources.append(attention.k_proj(h_BTD))
    heads = (attention.num_heads, -1)
    v_BHTD = v_BTD.unflatten(-1, heads).transpose(1, 2)
    mixed_BHTD = torch.zeros_like(v_BHTD)
    for source_BTD in sources:
        s_BHTD = source_BTD.unflatten(-1, heads).transpose(1, 2)
        mixed_BHTD += F.scaled_dot_product_attention(s_BHTD, s_BHTD, v_BHTD, scale=attention.scale)
    mixed_BTD = (mixed_BHTD / len(sources)).transpose(1, 2).flatten(2)
    return attention.out_proj(mixed_BTD)


def vision_fingerprint(patch_weight: Tensor, vision_config: Any) -> str:
    """Hash a vision tower's patch embedding and shape: the same after a move or a cast.

    A folder's name says little about its weights, so labels and training compare this. The weight
    ``(hidden, 3, patch, patch)`` is rounded to bfloat16, so that a float32 and a bfloat16 copy
    agree (float16 can round differently). Limit: two towers that share it and differ in later
    layers only (a tower tuned with its first layer frozen) look the same.
    """
    rounded = patch_weight.detach().to("cpu", torch.bfloat16).contiguous()
    shape = {name: getattr(vision_config, name) for name in _SHAPE_FIELDS}
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
    digest.update(rounded.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _unpaired(family: str, name: str) -> str:
    return (
        f"labels need an image encoder with its paired text encoder, and {name} is of type "
        f"'{family}'; give a CLIP, SigLIP or TIPSv2 folder that holds both towers (model_type "
        f"{', '.join(map(repr, FAMILIES))}). To train an adapter for DINOv3 or another tower, mine "
        "labels with such an encoder and train with --sea_transfer True"
    )
