"""The vision towers that are known: a new one is a new entry of `TOWERS`, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers import (
    CLIPVisionConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from llava_sea.data.images import pair, patch_grid
from llava_sea.errors import UserError
from llava_sea.model.load_weights import check_model, model_config, quiet_transformers
from llava_sea.pretrained import load_pretrained
from llava_sea.ranges import check_range, whole


@dataclass(frozen=True)
class Tower:
    """What the package needs to know of a kind of vision tower."""

    after_layers: tuple[str, ...]
    """Its modules after the last layer; `hidden_states` never pass through them."""
    has_cls: bool = True
    """Whether a class token stands first, and the config's register tokens behind it."""
    written_prefix: str = ""
    """What transformers 4 puts before its names in a checkpoint."""
    written_names: Mapping[str, str] = field(default_factory=dict)
    """Parts of its names in transformers 5 -> in transformers 4; ``^`` is a name's beginning."""

    def read_name(self, written: str) -> str:
        """Return a weight's name in transformers 5, if the written one is such a tower's."""
        for name, old in self.written_names.items():
            written = f"^{written}".replace(old, name)[1:]
        return written

    def written_name(self, name: str) -> str:
        """Return a weight's name in a checkpoint."""
        for new, old in self.written_names.items():
            name = f"^{name}".replace(new, old)[1:]
        return self.written_prefix + name.removeprefix("vision_model.")


_DINOV2_NAMES = {  # but for the giant's gated MLP
    "attention.q_proj.": "attention.attention.query.",
    "attention.k_proj.": "attention.attention.key.",
    "attention.v_proj.": "attention.attention.value.",
    "attention.o_proj.": "attention.output.dense.",
}

TOWERS = {
    "clip_vision_model": Tower(("post_layernorm",), written_prefix="vision_model."),
    "siglip_vision_model": Tower(("post_layernorm", "head"), False, "vision_model."),
    "aimv2_vision_model": Tower(("rms_norm", "head"), False),
    "tipsv2_vision_model": Tower(  # its register is a second class token
        ("layernorm",),
        written_names={  # of the hub's names those that transformers would take these for
            "^layernorm.": "^norm.",
            "^embeddings.cls_token": "^cls_token",
            "^embeddings.mask_token": "^mask_token",
            "^embeddings.register_tokens": "^register_tokens",
        },
    ),
    "dinov2": Tower(("layernorm",), written_names=_DINOV2_NAMES),
    "dinov2_with_registers": Tower(("layernorm",), written_names=_DINOV2_NAMES),
    "dinov3_vit": Tower(("norm",), written_names={"^model.layer.": "^layer."}),
}
"""By `model_type`."""

_ALSO_KNOWN: dict[str, type[PreTrainedConfig]] = {"metaclip_2_vision_model": CLIPVisionConfig}
"""Kinds that compute what another does, under the same names, and are taken for that."""

_WAYS_OUT = {
    "siglip2_vision_model": "is a SigLIP 2 for images of any shape (NaFlex); for one grid of "
    "patches it is a SigLIP, which python scripts/fit_tower.py writes",
    "timm_wrapper": "is read by timm (as Perception Encoder is), whose hidden states are no row of "
    "tokens that a llava can take; use a SigLIP 2, AIMv2 or DINOv3",
}
"""Kinds that are asked for and not known -> what they are, and what to do."""


def tower_config(path: str, cache_dir: str | None = None, *, named_by: object = "") -> Any:
    """Return the configuration of a vision tower, or of the vision half of a CLIP or its like.

    `named_by` is the checkpoint that names it, for messages.

    Raises:
        UserError: if it cannot be found, or is of a kind this package does not know.
    """
    flag, way_out = "--vision_tower", ""
    if named_by:
        flag, way_out = f"{named_by}: its vision tower", "; pass its folder with --vision_tower"
    try:
        config = model_config(path, flag, cache_dir, way_out)
    except ImportError:  # of timm, the one package that a configuration asks for
        raise UserError(f"--vision_tower {path}: {_WAYS_OUT['timm_wrapper']}") from None
    config = getattr(config, "vision_config", config)
    if other := _ALSO_KNOWN.get(config.model_type):
        config = other(**config.to_dict() | {"model_type": other.model_type})
    if config.model_type not in TOWERS:
        known = f"known are {', '.join(TOWERS)}"
        raise UserError(
            f"--vision_tower {path}: its model type is {config.model_type!r}; "
            f"{_WAYS_OUT.get(config.model_type, known)}"
        )
    try:
        smallest = min(*patch_grid(config), *pair(config.patch_size))
    except (ArithmeticError, TypeError, ValueError):
        smallest = 0
    if smallest < 1 or getattr(config, "num_register_tokens", 0) < 0:
        raise UserError(
            f"--vision_tower {path}: its config.json names images of {config.image_size} pixels, "
            f"patches of {config.patch_size} and {getattr(config, 'num_register_tokens', 0)} "
            "registers; no image has such patches, fetch it again"
        )
    return config


def load_tower(path: str, **options: Any) -> PreTrainedModel:
    """Load the vision half of a CLIP or SigLIP, or a vision-only model."""
    check_model(path)
    config = tower_config(path, options.get("cache_dir"))
    if config.model_type == "aimv2_vision_model":  # transformers knows no half of a pair here
        options["key_mapping"] = {r"^vision_model\.": ""}
    # Loading half of a CLIP leaves the other half over; transformers would list every key of it.
    with quiet_transformers():
        tower_class: Any = MODEL_MAPPING[type(config)]
        tower, report = load_pretrained(
            tower_class, path, config=config, output_loading_info=True, **options
        )
    if report["missing_keys"]:
        raise UserError(
            f"--vision_tower {path}: weights are missing: {sorted(report['missing_keys'])[:5]}"
        )
    return tower


def check_select_layer(layer: int, vision_config: Any, path: str) -> None:
    """Refuse a hidden state that the tower does not have."""
    depth = vision_config.num_hidden_layers
    allowed = whole(-depth - 1, depth)
    check_range("mm_vision_select_layer", layer, allowed, f"{path} has {depth} layers")


def num_patches(vision_config: Any) -> int:
    """Count the patches of an image."""
    return math.prod(patch_grid(vision_config))


def prefix_tokens(vision_config: Any) -> int:
    """Count the tokens before the patches: class and registers."""
    has_cls = TOWERS[vision_config.model_type].has_cls
    return (1 + getattr(vision_config, "num_register_tokens", 0)) if has_cls else 0


def first_patch(config: Any) -> int:
    """Count the tokens before the patches that reach the LLM: none but with ``cls_patch``."""
    keeps = config.vision_feature_select_strategy == "full"
    return prefix_tokens(config.vision_config) if keeps else 0


def surplus_tokens(config: Any) -> int:
    """Count the tokens before the patches that a stock Llava leaves in and this package drops.

    Of a tower's first tokens a stock Llava can drop the class token alone.
    """
    drops = config.vision_feature_select_strategy == "default"
    return max(0, prefix_tokens(config.vision_config) - 1) if drops else 0


def not_stock(config: Any) -> str:
    """Say why a stock llava cannot express a Llava as it is used here, and the way out; or ''."""
    more, kind = surplus_tokens(config), config.vision_config.model_type
    if not more:
        return ""
    return (
        f"of a {kind} the class token and {more} more are left out, and a stock llava leaves out "
        "one alone. The checkpoint is for this package (chat, evaluation, export --format llm); "
        "transformers and vLLM refuse its images. For one that they open pass "
        "--mm_vision_select_feature cls_patch in both stages: all tokens go to the LLM"
    )


def unused_tower_parts(llava: LlavaForConditionalGeneration) -> list[nn.Module]:
    """Return the tower's modules after the hidden state that feeds the projector."""
    tower: Any = llava.model.vision_tower
    depth = int(tower.config.num_hidden_layers)
    (layers,) = [m for m in tower.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    selected: Any = llava.config.vision_feature_layer
    used = selected if selected >= 0 else depth + 1 + selected
    after = TOWERS[tower.config.model_type].after_layers
    # a SigLIP may be without its head
    return [*layers[used:], *(getattr(tower, name) for name in after if hasattr(tower, name))]
