"""Names of weights in checkpoints, into the names of transformers' modules.

Known are LLaVA's own (``model.mm_projector.0.weight``, ``model.layers...``), those of ``llava-hf``
checkpoints as transformers 4 wrote them (``language_model.model...``, ``vision_tower.
vision_model...``), the module names of 4.52 and later, and any of these behind peft's prefix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Size, Tensor

from llava_sea.errors import UserError
from llava_sea.model.projector_io import LLAVA_TO_HF
from llava_sea.model.write_names import DINOV2_NAMES

PEFT_PREFIX = "base_model.model."

# Longest first: the first that fits is taken. The right side is the name in the stock module.
_PREFIXES = (
    ("model.vision_tower.vision_tower.vision_model.", "model.vision_tower."),
    ("model.vision_tower.vision_tower.", "model.vision_tower."),
    ("model.vision_tower.vision_model.", "model.vision_tower."),
    ("vision_tower.vision_model.", "model.vision_tower."),
    ("model.vision_tower.", "model.vision_tower."),
    ("vision_tower.", "model.vision_tower."),
    ("model.multi_modal_projector.", "model.multi_modal_projector."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("model.language_model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model.language_model."),
    ("lm_head.", "lm_head."),
    ("model.", "model.language_model."),
)

# Buffers that older versions saved, and LLaVA-1.6's separator, which a 1.5 model has no use for.
_LEFT_OUT = re.compile(r"(rotary_emb\.inv_freq|position_ids|image_newline)$")


def to_stock(name: str) -> str | None:
    """Return the module's name for a weight, or None if no such weight can be in a Llava."""
    name = name.removeprefix(PEFT_PREFIX)
    _, is_projector, rest = name.rpartition("mm_projector.")
    if is_projector:
        known = LLAVA_TO_HF.get(rest)
        return f"model.multi_modal_projector.{known}" if known else None
    for prefix, stock in _PREFIXES:
        if name.startswith(prefix):
            rest = name.removeprefix(prefix)
            if stock == "model.vision_tower.":
                for new, old in DINOV2_NAMES.items():
                    rest = rest.replace(old, new)
            return stock + rest
    return None


@dataclass
class Renamed:
    """Weights under their modules' names, and those that have no place."""

    weights: dict[str, Tensor] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    """Known to be of no use: `inv_freq`, `position_ids`, `image_newline`."""
    unknown: list[str] = field(default_factory=list)


def rename(weights: Mapping[str, Tensor], where: object) -> Renamed:
    """Rename all weights of a checkpoint.

    Raises:
        UserError: if two of them are the same weight.
    """
    result = Renamed()
    origin: dict[str, str] = {}
    for name, tensor in weights.items():
        if _LEFT_OUT.search(name):
            result.left_out.append(name)
        elif (stock := to_stock(name)) is None:
            result.unknown.append(name)
        elif stock in origin:
            raise UserError(f"{where}: {origin[stock]} and {name} are the same weight ({stock})")
        else:
            origin[stock] = name
            result.weights[stock] = tensor
    return result


def check_fit(
    renamed: Renamed,
    expected: Mapping[str, Size],
    where: object,
    *,
    optional: Iterable[str] = (),
) -> None:
    """Compare a checkpoint with the model that is to hold it; unknown names are moved aside.

    Args:
        renamed: the weights; those that the model has no place for go to `unknown`.
        expected: the model's names and shapes.
        where: the folder, for messages.
        optional: prefixes of names that may be missing.

    Raises:
        UserError: naming what is missing, and what has another shape.
    """
    for name in [name for name in renamed.weights if name not in expected]:
        del renamed.weights[name]
        renamed.unknown.append(name)
    missing = [
        name
        for name in expected
        if name not in renamed.weights and not name.startswith(tuple(optional))
    ]
    if missing:
        unknown = f"; not understood: {some(renamed.unknown)}" if renamed.unknown else ""
        raise UserError(f"{where}: weights are missing: {some(missing)}{unknown}")
    wrong = [
        f"{name} is {tuple(tensor.shape)}, the model needs {tuple(expected[name])}"
        for name, tensor in renamed.weights.items()
        if tensor.shape != expected[name]
    ]
    if wrong:
        raise UserError(f"{where}: the weights do not fit config.json: {some(wrong, '; ')}")


def some(names: Iterable[str], joint: str = ", ", limit: int = 5) -> str:
    """Join the first few names and say how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return joint.join(names[:limit]) + more
