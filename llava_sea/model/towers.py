"""The vision towers that are known: a new one is a new entry of `TOWERS`, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers import LlavaForConditionalGeneration, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from llava_sea.errors import UserError
from llava_sea.model.load_weights import check_model, model_config, quiet_transformers
from llava_sea.pretrained import load_pretrained
from llava_sea.ranges import check_range, whole


@dataclass(frozen=True)
class Tower:
    """What the package needs to know of a kind of vision tower."""

    has_cls: bool
    """Whether its first token is a class token, which LLaVA leaves out."""
    after_layers: tuple[str, ...]
    """Its modules after the last layer; `hidden_states` never pass through them."""
    written_prefix: str = ""
    """What transformers 4 puts before its names in a checkpoint."""
    written_names: Mapping[str, str] = field(default_factory=dict)
    """Parts of its names in transformers 5 -> in transformers 4."""


TOWERS = {
    "clip_vision_model": Tower(True, ("post_layernorm",), "vision_model."),
    "siglip_vision_model": Tower(False, ("post_layernorm", "head"), "vision_model."),
    "dinov2": Tower(
        True,
        ("layernorm",),
        written_names={  # but for the giant's gated MLP
            "attention.q_proj.": "attention.attention.query.",
            "attention.k_proj.": "attention.attention.key.",
            "attention.v_proj.": "attention.attention.value.",
            "attention.o_proj.": "attention.output.dense.",
        },
    ),
}
"""By `model_type`."""


def tower_config(path: str, cache_dir: str | None = None, *, named_by: object = "") -> Any:
    """Return the configuration of a vision tower, or of the vision half of a CLIP or SigLIP.

    `named_by` is the checkpoint that names it, for messages.

    Raises:
        UserError: if it cannot be found, or is of a kind this package does not know.
    """
    if named_by:
        way_out = "; pass its folder with --vision_tower"
        config = model_config(path, f"{named_by}: its vision tower", cache_dir, way_out)
    else:
        config = model_config(path, "--vision_tower", cache_dir)
    config = getattr(config, "vision_config", config)
    if config.model_type not in TOWERS:
        raise UserError(
            f"--vision_tower {path}: its model type is {config.model_type!r}; known are "
            f"{', '.join(TOWERS)}"
        )
    return config


def load_tower(path: str, **options: Any) -> PreTrainedModel:
    """Load the vision half of a CLIP or SigLIP, or a vision-only model."""
    check_model(path)
    config = tower_config(path, options.get("cache_dir"))
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
    """Count the patches of an image: (image size / patch size) squared."""
    return int(vision_config.image_size // vision_config.patch_size) ** 2


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
