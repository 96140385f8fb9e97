"""Names of weights: in files of every kind, in transformers' module, and as they are written.

Read are LLaVA's own (``model.mm_projector.0.weight``, ``model.layers...``), those of ``llava-hf``
as transformers 4 wrote them (``language_model.model...``, ``vision_tower.vision_model...``), the
module names of 4.52 and later, and any of these behind peft's prefix. Written are those of
``llava-hf``, which transformers 4, 5 and vLLM read; transformers 5.23 itself would write names that
older readers do not know (it drops ``vision_model`` from a CLIP's).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Size, Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration

from llava_sea.errors import UserError
from llava_sea.model.builder import without_zero3
from llava_sea.model.projector_io import LLAVA_TO_HF
from llava_sea.model.towers import TOWERS

logger = logging.getLogger(__name__)

PEFT_PREFIX = "base_model.model."
VISION_TOWER = "model.vision_tower."
EMBEDDING = "model.language_model.embed_tokens.weight"
HEAD = "lm_head.weight"

_STOCK = (
    (r"(model\.)?vision_tower\.(vision_tower\.)?(vision_model\.)?", VISION_TOWER),
    (r"(model\.)?multi_modal_projector\.", "model.multi_modal_projector."),
    (r"(language_model\.)?lm_head\.", "lm_head."),
    (r"(model\.language_model|language_model\.model|model)\.", "model.language_model."),
)
"""Beginnings of names in files, of which the first that fits counts -> in the stock module."""

_WRITTEN = {
    "lm_head.": "language_model.lm_head.",
    "model.language_model.": "language_model.model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    VISION_TOWER: "vision_tower.",
}

# Buffers that older versions saved, and LLaVA-1.6's separator, which a 1.5 model has no use for.
_LEFT_OUT = re.compile(r"(rotary_emb\.inv_freq|position_ids|image_newline)$")


def to_stock(name: str, tower_type: str) -> str | None:
    """Return the stock module's name for a weight, None if no such weight can be in a Llava.

    `tower_type` is of the vision tower; one that `TOWERS` does not have has no other names.
    """
    name = name.removeprefix(PEFT_PREFIX)
    _, is_projector, rest = name.rpartition("mm_projector.")
    if is_projector:
        known = LLAVA_TO_HF.get(rest)
        return f"model.multi_modal_projector.{known}" if known else None
    for pattern, stock in _STOCK:
        if found := re.match(pattern, name):
            rest = name[found.end() :]
            if stock == VISION_TOWER:
                rest = TOWERS[tower_type].read_name(rest) if tower_type in TOWERS else rest
            return stock + rest
    return None


def to_written(name: str, tower_type: str) -> str:
    """Return the name on disk of a stock Llava's weight; `tower_type` is of `TOWERS`."""
    for stock, written in _WRITTEN.items():
        if name.startswith(stock):
            rest = name.removeprefix(stock)
            if stock == VISION_TOWER:
                rest = TOWERS[tower_type].written_name(rest)
            return written + rest
    raise ValueError(f"{name}: no weight of transformers' Llava")


def rename(
    weights: Mapping[str, Tensor], where: object, tower_type: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Give a checkpoint's weights the stock module's names; list those that no Llava has."""
    renamed: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    unknown, left_out = [], []
    for name, tensor in weights.items():
        stock = to_stock(name, tower_type)
        if _LEFT_OUT.search(name):
            left_out.append(name)
        elif stock is None:
            unknown.append(name)
        elif stock in origin:
            raise UserError(f"{where}: {origin[stock]} and {name} are the same weight ({stock})")
        else:
            origin[stock], renamed[stock] = name, tensor
    if left_out:
        logger.info("%s: of no use and left out: %s", where, some(left_out))
    return renamed, unknown


def shapes_of(config: LlavaConfig) -> dict[str, Size]:
    """Return the names and shapes of the weights of the model that transformers makes of this."""
    with torch.device("meta"), without_zero3():
        shell = LlavaForConditionalGeneration(config)
    return {name: tensor.shape for name, tensor in shell.state_dict().items()}


def check_fit(
    shapes: Mapping[str, Size],
    expected: Mapping[str, Size],
    where: object,
    *,
    unknown: Iterable[str] = (),
    optional: tuple[str, ...] = (),
) -> None:
    """Compare weights with those that a model needs.

    Args:
        shapes: of the weights, under names that the model knows.
        expected: the model's.
        where: the folder, for messages.
        unknown: names that were not understood, for messages.
        optional: beginnings of names that may be missing.
    """
    missing = [n for n in expected if n not in shapes and not n.startswith(optional)]
    if missing:
        understood = f"; not understood: {some(unknown)}" if unknown else ""
        raise UserError(f"{where}: weights are missing: {some(missing)}{understood}")
    wrong = [
        f"{name} is {tuple(shape)}, the model needs {tuple(expected[name])}"
        for name, shape in shapes.items()
        if shape != expected[name]
    ]
    if wrong:
        raise UserError(f"{where}: the weights do not fit config.json: {some(wrong, '; ')}")


def some(names: Iterable[str], joint: str = ", ", limit: int = 5) -> str:
    """Join the first few names and say how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return joint.join(names[:limit]) + more
