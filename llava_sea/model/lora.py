"""LoRA on the LLM's linear layers: added for training, stored as in LLaVA, merged on loading.

On disk the adapters have the names that they would have in the causal LM alone
(``base_model.model.model.layers...``), which peft reads onto that LLM and LLaVA onto its own class.
The projector, and the part of the tower that is trained, go into ``non_lora_trainables.bin`` under
LLaVA's names.

Merged is W + s B A, in float32; peft's own merge rounds the update to the base's dtype first, and
knows nothing of parameters that ZeRO-3 has partitioned. The base model is checked: by a fingerprint
if the adapter's folder records one, else by its name, and always by every shape. Limits: plain LoRA
on linear layers (rank and alpha patterns and rsLoRA included) is merged; DoRA, and starts that
change the base (PiSSA and the like), are refused.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from llava_sea.errors import UserError
from llava_sea.files import read_object
from llava_sea.model.load_weights import read_tensors
from llava_sea.model.names import PEFT_PREFIX, some, to_stock, to_written
from llava_sea.model.projector_io import LLAVA_TO_HF, copy_in, gathered
from llava_sea.model.stage2 import choose_trainable

if TYPE_CHECKING:
    from peft import LoraConfig

ADAPTER_CONFIG = "adapter_config.json"
FINGERPRINT = "base_fingerprint"
"""Key of an adapter folder's config.json under which `base_fingerprint` is recorded."""
_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_LORA_KEY = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")
_PREFIX = f"{PEFT_PREFIX}model."


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
    from peft import LoraConfig, inject_adapter_in_model  # seconds, for training alone

    llm = llava.model.language_model
    layers = [name for name, module in llm.named_modules() if isinstance(module, nn.Linear)]
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        bias=bias,  # type: ignore[arg-type]
        target_modules=sorted({name.rpartition(".")[2] for name in layers}),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
    )
    choose_trainable(llava, language_model=False, projector=projector, vision_tower=vision_tower)
    on_meta = next(llm.parameters()).is_meta  # a shell, to count parameters
    inject_adapter_in_model(config, llm, low_cpu_mem_usage=on_meta)
    # A as peft draws it, U(-1, 1)/sqrt(fan_in), but from a generator of its own: the global one's
    # numbers depend on the engine, and ZeRO-3 would put a matrix together from all ranks' parts.
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in llm.named_parameters():
        if ".lora_A." in name and not on_meta:
            with gathered(parameter, write=True):
                drawn = 2 * torch.rand(parameter.shape, generator=generator) - 1
                parameter.data.copy_(drawn / math.sqrt(parameter.shape[1]))
    return config


def lora_parameters(llava: LlavaForConditionalGeneration) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield (name on disk, parameter) of the adapters and of the biases that are trained."""
    for name, parameter in llava.model.language_model.named_parameters():
        if parameter.requires_grad:
            plain = name.replace(".default.", ".").replace(".base_layer.", ".")
            yield _PREFIX + plain, parameter


def non_lora_parameters(llava: LlavaForConditionalGeneration) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield (LLaVA's name, parameter) of the projector and of what is trained of the tower.

    The projector is there even if it is frozen: on a plain LLM nothing else holds it.
    """
    names = {hf: llava_name for llava_name, hf in LLAVA_TO_HF.items()}
    for name, parameter in llava.model.multi_modal_projector.named_parameters():
        yield f"{_PREFIX}mm_projector.{names[name]}", parameter
    tower: Any = llava.model.vision_tower
    for name, parameter in tower.named_parameters():
        if parameter.requires_grad:
            # LLaVA holds the tower of transformers 4 as an attribute of its own module.
            legacy = to_written(f"model.vision_tower.{name}", tower.config.model_type)
            yield f"{_PREFIX}vision_tower.{legacy}", parameter


def restore_lora(
    llava: LlavaForConditionalGeneration, state: dict[str, Tensor], where: str
) -> None:
    """Copy stored tensors, by their names on disk, into a model that has its adapters."""
    wanted = dict(lora_parameters(llava)) | dict(non_lora_parameters(llava))
    missing, strange = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or strange:
        raise UserError(
            f"{where}: does not fit this model. Missing: {missing[:5] or 'nothing'}; not "
            f"understood: {strange[:5] or 'nothing'}"
        )
    for name, parameter in wanted.items():
        copy_in(parameter, state[name], f"{where}: {name}", "it is of another model")


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
        for name, parameter in module.named_parameters(recurse=False):
            with gathered(parameter):
                rows = parameter.detach()[:64].cpu() if is_embedding else parameter.detach().cpu()
                digest.update(f"{module_name}.{name} {tuple(parameter.shape)}".encode())
                digest.update(rows.to(torch.bfloat16).contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Read ``adapter_config.json`` and refuse what cannot be merged exactly."""
    path = folder / ADAPTER_CONFIG
    config = read_object(path)
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
    for name in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(name) or {}, dict):
            raise UserError(f"{path}: {name} is no object")
    return config


def check_base(folder: Path, config: Mapping[str, Any], given: str, model: nn.Module) -> None:
    """Compare the base that an adapter was trained on with the one it is to be merged into."""
    recorded = str(config.get("base_model_name_or_path") or "")
    settings = read_object(folder / "config.json") if (folder / "config.json").is_file() else {}
    if expected := settings.get(FINGERPRINT):
        if base_fingerprint(model.get_submodule("model.language_model")) != expected:
            raise UserError(
                f"{folder}: trained on {recorded or 'another base'}, whose weights differ from "
                f"those of the base given, {given}. Give the same base with --model-base"
            )
    elif recorded and Path(recorded).name != Path(given).name:
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
    updates: dict[str, dict[str, Tensor]] = {}
    others = {}
    for key, tensor in read_tensors(path).items():
        if found := _LORA_KEY.fullmatch(key):
            updates.setdefault(found[1], {})[found[2]] = tensor
        else:
            plain = key.replace(".modules_to_save.default.", ".").replace(".base_layer.", ".")
            others[plain] = tensor
    if not updates:
        raise UserError(f"{path}: holds no LoRA weights; it holds {some(others) or 'nothing'}")
    for layer, matrices in updates.items():
        a_RI, b_OR = matrices["A"], matrices["B"]
        rank, scale = rank_and_scale(layer.removeprefix(PEFT_PREFIX), config)
        if len(a_RI) != rank:
            raise UserError(
                f"{path}: {layer} has rank {len(a_RI)}, {ADAPTER_CONFIG} says {rank}; the two "
                "files are not of the same run"
            )
        weight = _find(model, f"{layer}.weight", path)
        with gathered(weight, write=True):
            if weight.shape != (b_OR.shape[0], a_RI.shape[1]):
                raise UserError(
                    f"{path}: {layer}: lora_B {tuple(b_OR.shape)} times lora_A "
                    f"{tuple(a_RI.shape)} does not fit the base's weight {tuple(weight.shape)}; "
                    "it was trained on another base"
                )
            update_OI = scale * (b_OR.float() @ a_RI.float())
            weight.data.copy_(weight.data.float() + update_OI.to(weight.device))
    return len(updates), _load_whole(model, others, path)


def rank_and_scale(layer: str, config: Mapping[str, Any]) -> tuple[int, float]:
    """Return r and the factor of a layer's update: alpha / r, or alpha / sqrt(r) with rsLoRA."""
    from peft.utils.other import get_pattern_key  # a quarter of a second, for adapters alone

    def of_layer(patterns: str, default: str) -> Any:
        by_pattern = config.get(patterns) or {}
        return by_pattern.get(get_pattern_key(list(by_pattern), layer), config[default])

    rank, alpha = of_layer("rank_pattern", "r"), of_layer("alpha_pattern", "lora_alpha")
    is_sound = isinstance(rank, int) and isinstance(alpha, (int, float)) and math.isfinite(alpha)
    if not is_sound or rank < 1:
        raise UserError(f"{ADAPTER_CONFIG}: {layer} has r {rank!r} and lora_alpha {alpha!r}")
    return rank, float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def load_trained_whole(folder: Path, model: nn.Module) -> list[str]:
    """Put `non_lora_trainables.bin`, or else `mm_projector.bin`, in place; name its tensors."""
    for name in ("non_lora_trainables.bin", "mm_projector.bin"):
        path = folder / name
        if path.is_file():
            bare = LLAVA_TO_HF if name == "mm_projector.bin" else {}
            weights = read_tensors(path)
            named = {f"mm_projector.{k}" if k in bare else k: t for k, t in weights.items()}
            return _load_whole(model, named, path)
    return []


def _load_whole(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> list[str]:
    for key, tensor in weights.items():
        why = "the base or the vision tower is another one"
        copy_in(_find(model, key, path), tensor, f"{path}: {key}", why)
    return list(weights)


def _find(model: nn.Module, key: str, path: Path) -> nn.Parameter:
    config: Any = model.config
    try:
        return model.get_parameter(to_stock(key, config.vision_config.model_type) or "")
    except AttributeError:
        raise UserError(
            f"{path}: {key} is no weight of the base; the adapter belongs to another kind of model"
        ) from None
