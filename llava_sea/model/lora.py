"""LoRA on the LLM's linear layers, stored as LLaVA stores it.

peft puts the adapters into the LLM in place. On disk they have the names that they would have in
the causal LM alone (``base_model.model.model.layers...``), which peft reads onto that LLM and LLaVA
onto its own class; the parts of the stock Llava are named differently, so names are translated
here. The projector, and the part of the tower that is trained, go into
``non_lora_trainables.bin`` under LLaVA's names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from llava_sea.errors import UserError
from llava_sea.model.names import PEFT_PREFIX, to_written
from llava_sea.model.projector_io import LLAVA_TO_HF, gathered
from llava_sea.model.stage2 import choose_trainable

ADAPTER = "default"
"""peft's name of the one adapter; it stands in module names and never in files."""

LORA_PREFIX = f"{PEFT_PREFIX}model."


def linear_names(llm: nn.Module) -> list[str]:
    """Return the last names of the LLM's linear layers (LLaVA's targets): q_proj, down_proj, ..."""
    found = {name.rpartition(".")[2] for name, m in llm.named_modules() if isinstance(m, nn.Linear)}
    return sorted(found)


def add_lora(
    llava: LlavaForConditionalGeneration,
    *,
    rank: int,
    alpha: int,
    dropout: float,
    bias: str = "none",
    base: str,
    seed: int = 42,
    projector: bool = True,
    vision_tower: bool = False,
) -> LoraConfig:
    """Put adapters into the LLM, in place, and freeze the rest of it.

    Args:
        llava: changed in place.
        rank: r, the adapters' inner width.
        alpha: the adapters' output is scaled by alpha / r.
        dropout: on the adapters' input.
        bias: none, all or lora_only: which of the LLM's biases are trained.
        base: folder or hub id that the adapters belong to, for ``adapter_config.json``.
        seed: of the adapters' first values.
        projector: whether it is trained, whole.
        vision_tower: as in `choose_trainable`.

    Returns:
        The configuration that goes to disk.
    """
    llm = llava.model.language_model
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        bias=bias,  # type: ignore[arg-type]
        target_modules=linear_names(llm),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
    )
    choose_trainable(llava, language_model=False, projector=projector, vision_tower=vision_tower)
    inject_adapter_in_model(config, llm, adapter_name=ADAPTER)
    _initialise(llm, seed)
    return config


def _initialise(llm: nn.Module, seed: int) -> None:
    """Draw A as peft does, U(-1, 1)/sqrt(fan_in); B stays 0.

    From a generator of its own: what the global one gives depends on the engine, which loads models
    in other ways, and ZeRO-3 puts a matrix together from all ranks' parts.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in llm.named_parameters():
        if ".lora_A." in name:
            with gathered(parameter, write=True):
                drawn = 2 * torch.rand(parameter.shape, generator=generator) - 1
                parameter.data.copy_(drawn / math.sqrt(parameter.shape[1]))


def lora_parameters(llava: LlavaForConditionalGeneration) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield (name on disk, parameter) of the adapters and of the biases that are trained."""
    for name, parameter in llava.model.language_model.named_parameters():
        if parameter.requires_grad:
            plain = name.replace(f".{ADAPTER}.", ".").replace(".base_layer.", ".")
            yield LORA_PREFIX + plain, parameter


def non_lora_parameters(llava: LlavaForConditionalGeneration) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield (LLaVA's name, parameter) of the projector and of what is trained of the tower.

    The projector is there even if it is frozen: on a plain LLM nothing else holds it.
    """
    names = {hf: llava_name for llava_name, hf in LLAVA_TO_HF.items()}
    for name, parameter in llava.model.multi_modal_projector.named_parameters():
        yield f"{LORA_PREFIX}mm_projector.{names[name]}", parameter
    tower: Any = llava.model.vision_tower
    for name, parameter in tower.named_parameters():
        if parameter.requires_grad:
            # LLaVA holds the tower of transformers 4 as an attribute of its own module.
            legacy = to_written(f"model.vision_tower.{name}", tower.config.model_type)
            yield f"{LORA_PREFIX}vision_tower.{legacy}", parameter


def restore_lora(
    llava: LlavaForConditionalGeneration, state: dict[str, Tensor], where: str
) -> None:
    """Copy stored tensors, by their names on disk, into a model that has its adapters.

    Raises:
        UserError: if a tensor is missing, left over, or of another shape.
    """
    wanted = dict(lora_parameters(llava)) | dict(non_lora_parameters(llava))
    missing, strange = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    wrong = [n for n in wanted.keys() & state.keys() if wanted[n].shape != state[n].shape]
    if missing or strange or wrong:
        raise UserError(
            f"{where}: does not fit this model. Missing: {missing[:5] or 'nothing'}; not "
            f"understood: {strange[:5] or 'nothing'}; of another shape: {wrong[:5] or 'nothing'}"
        )
    for name, parameter in wanted.items():
        parameter.data.copy_(state[name])
