"""LoRA adapters as LLaVA and peft write them, merged into a model: W + s B A, in float32.

Next to the adapter LLaVA puts ``non_lora_trainables.bin``: the projector, and whatever else was
trained whole. The base model is checked: by a fingerprint if the adapter's folder records one, else
by its name, and always by every shape.

Limits: plain LoRA on linear layers (rank and alpha patterns and rsLoRA included); DoRA, and starts
that change the base (PiSSA and the like), are refused.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llava_sea.errors import UserError
from llava_sea.model.load_weights import read_json, read_tensors
from llava_sea.model.names import PEFT_PREFIX, some, to_stock
from llava_sea.model.projector_io import gathered, gathered_parameters

ADAPTER_CONFIG = "adapter_config.json"
FINGERPRINT = "base_fingerprint"
"""Key of an adapter folder's config.json under which `base_fingerprint` is recorded."""
_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_LORA_KEY = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")


def base_fingerprint(language_model: nn.Module) -> str:
    """Hash what tells two base LLMs apart and LoRA leaves alone; a collective under ZeRO-3.

    Hashed are the norms and the first rows of the embedding, rounded to bfloat16, so that a base
    loaded in bfloat16 and in float32 has the same.
    """
    digest = hashlib.sha256()
    for module_name, module in sorted(language_model.named_modules()):
        is_embedding = isinstance(module, nn.Embedding)
        if not is_embedding and "norm" not in module_name.rpartition(".")[2]:
            continue
        with gathered(module):
            for name, parameter in module.named_parameters(recurse=False):
                rows = parameter.detach()[:64].cpu() if is_embedding else parameter.detach().cpu()
                digest.update(f"{module_name}.{name} {tuple(parameter.shape)}".encode())
                digest.update(rows.to(torch.bfloat16).contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Read ``adapter_config.json`` and refuse what cannot be merged exactly.

    Raises:
        UserError: naming the setting.
    """
    path = folder / ADAPTER_CONFIG
    config = read_json(path)
    start = config.get("init_lora_weights", True)
    refused = {
        "peft_type": config.get("peft_type", "LORA") != "LORA",
        "use_dora": bool(config.get("use_dora")),
        "fan_in_fan_out": bool(config.get("fan_in_fan_out")),
        "init_lora_weights": isinstance(start, str) and start not in ("gaussian", "orthogonal"),
    }
    for name, is_refused in refused.items():
        if is_refused:
            raise UserError(
                f"{path}: {name} is {config[name]!r}; plain LoRA on linear layers is merged here. "
                "Merge it with peft and load the result"
            )
    if not isinstance(config.get("r"), int) or "lora_alpha" not in config:
        raise UserError(f"{path}: says no r or no lora_alpha")
    return config


def check_base(folder: Path, config: Mapping[str, Any], given: str, model: nn.Module) -> None:
    """Compare the base that an adapter was trained on with the one it is to be merged into.

    Raises:
        UserError: naming both.
    """
    recorded = str(config.get("base_model_name_or_path") or "")
    settings = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    expected = settings.get(FINGERPRINT)
    if expected:
        language_model: Any = model.get_submodule("model.language_model")
        if base_fingerprint(language_model) != expected:
            raise UserError(
                f"{folder}: trained on {recorded or 'another base'}, whose weights differ from "
                f"those of the base given, {given}. Give the same base with --model-base"
            )
        return
    if recorded and Path(recorded).name != Path(given).name:
        raise UserError(
            f"{folder}: trained on {recorded}, but the base given is {given}. Give the same base; "
            "if it is the same under another name, write that into base_model_name_or_path of "
            f"{folder / ADAPTER_CONFIG}"
        )


def merge_adapter(
    model: nn.Module, folder: Path, config: Mapping[str, Any]
) -> tuple[int, list[str]]:
    """Add an adapter's updates to a model's weights.

    Returns:
        How many layers changed, and the names of weights in the adapter that were trained whole.

    Raises:
        UserError: if the adapter names a layer that is not there, or has another shape.
    """
    path = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder}: has {ADAPTER_CONFIG} but neither of {', '.join(_FILES)}")
    updates, others = {}, {}
    for key, tensor in read_tensors(path).items():
        if found := _LORA_KEY.fullmatch(key):
            updates[found[1], found[2]] = tensor
        else:
            plain = key.replace(".modules_to_save.default.", ".").replace(".base_layer.", ".")
            others[plain] = tensor
    layers = list(dict.fromkeys(name for name, _ in updates))
    if not layers:
        raise UserError(f"{path}: holds no LoRA weights; it holds {some(others) or 'nothing'}")
    for name in layers:
        if missing := {"A", "B"} - {part for layer, part in updates if layer == name}:
            raise UserError(f"{path}: {name} has no lora_{missing.pop()}")
        weight = _find(model, f"{name}.weight", path)
        rank, factor = rank_and_scale(name.removeprefix(PEFT_PREFIX), config)
        a_RI, b_OR = updates[name, "A"], updates[name, "B"]
        if a_RI.shape[0] != rank:
            raise UserError(
                f"{path}: {name} has rank {a_RI.shape[0]}, {ADAPTER_CONFIG} says {rank}; the two "
                "files are not of the same run"
            )
        _add(weight, a_RI, b_OR, factor, f"{path}: {name}")
    return len(layers), load_trained(model, others, path)


def rank_and_scale(name: str, config: Mapping[str, Any]) -> tuple[int, float]:
    """Return r and the factor of a layer's update: alpha / r, or alpha / sqrt(r) with rsLoRA."""
    rank = _by_pattern(name, config.get("rank_pattern"), config["r"])
    alpha = _by_pattern(name, config.get("alpha_pattern"), config["lora_alpha"])
    return rank, float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _by_pattern(name: str, patterns: Any, default: Any) -> Any:
    """Return the value of the first pattern that a module's name ends with, as peft does."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default


def load_trained(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> list[str]:
    """Put weights that were trained whole in place; return the names of the parameters.

    Raises:
        UserError: if one is not known or has another shape.
    """
    loaded = []
    for key, tensor in weights.items():
        parameter = _find(model, key, path)
        with gathered_parameters([parameter], write=True):
            if parameter.shape != tensor.shape:
                raise UserError(
                    f"{path}: {key} is {tuple(tensor.shape)}, the model needs "
                    f"{tuple(parameter.shape)}; the base or the vision tower is another one"
                )
            parameter.data.copy_(tensor)
        loaded.append(key)
    return loaded


def _find(model: nn.Module, key: str, path: Path) -> nn.Parameter:
    name = to_stock(key)
    try:
        if name is None:
            raise AttributeError
        return model.get_parameter(name)
    except AttributeError:
        raise UserError(
            f"{path}: {key} is no weight of the base; the adapter belongs to another kind of model"
        ) from None


def _add(weight: nn.Parameter, a_RI: Tensor, b_OR: Tensor, factor: float, where: str) -> None:
    """Add s B A to a weight ``(O, I)``; R is the rank."""
    with gathered_parameters([weight], write=True):
        fits = a_RI.ndim == b_OR.ndim == 2 and a_RI.shape[0] == b_OR.shape[1]
        if not fits or weight.shape != (b_OR.shape[0], a_RI.shape[1]):
            raise UserError(
                f"{where}: lora_B {tuple(b_OR.shape)} times lora_A {tuple(a_RI.shape)} does not "
                f"fit the base's weight {tuple(weight.shape)}; it was trained on another base"
            )
        update_OI = factor * (b_OR.float() @ a_RI.float())
        weight.data.copy_(weight.data.float() + update_OI.to(weight.device))
