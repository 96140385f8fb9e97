"""Names of weights in a written checkpoint: those of ``llava-hf``, which every reader takes.

transformers 4, 5 and vLLM read them. What transformers 5.23 itself would write is no use to older
readers: it keeps ``language_model.model`` but drops ``vision_model`` from a CLIP's names.
"""

from __future__ import annotations

_WITH_VISION_MODEL = ("clip_vision_model", "siglip_vision_model")
"""Vision towers whose weights were named ``vision_model.*`` in transformers 4."""

DINOV2_NAMES = {
    "attention.q_proj.": "attention.attention.query.",
    "attention.k_proj.": "attention.attention.key.",
    "attention.v_proj.": "attention.attention.value.",
    "attention.o_proj.": "attention.output.dense.",
}
"""DINOv2's layers in transformers 5 -> in transformers 4 (but for the giant's gated MLP)."""


def to_legacy(name: str, tower_type: str) -> str:
    """Return the name on disk of a stock Llava's weight.

    Args:
        name: as in `LlavaForConditionalGeneration.state_dict()`.
        tower_type: the vision tower's model type.

    Raises:
        ValueError: if a Llava has no such weight.
    """
    if name.startswith("lm_head."):
        return f"language_model.{name}"
    part, _, rest = name.removeprefix("model.").partition(".")
    if name.startswith("model."):
        if part == "language_model":
            return f"language_model.model.{rest}"
        if part == "multi_modal_projector":
            return f"multi_modal_projector.{rest}"
        if part == "vision_tower":
            if tower_type == "dinov2":
                for new, old in DINOV2_NAMES.items():
                    rest = rest.replace(new, old)
            inner = "vision_model." if tower_type in _WITH_VISION_MODEL else ""
            return f"vision_tower.{inner}{rest.removeprefix('vision_model.')}"
    raise ValueError(f"{name}: no weight of transformers' Llava")
