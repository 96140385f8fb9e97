"""Checkpoint folders in LLaVA's own layouts, written with torch and json alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

VICUNAS_GENERATION = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "max_length": 4096,
    "temperature": 0.9,
    "top_p": 0.6,
}
"""Sampling settings without do_sample: transformers reads them and refuses to save them."""
LLAVA_NAMES = {
    "model.language_model.": "model.",
    "multi_modal_projector.linear_1": "mm_projector.0",
    "multi_modal_projector.linear_2": "mm_projector.2",
    "model.vision_tower.": "model.vision_tower.vision_tower.vision_model.",
}


def llava_names(model: Any, *, with_tower: bool) -> dict[str, Tensor]:
    """A stock Llava's weights under the names of LLaVA-1.5's files."""
    named = {}
    for name, tensor in model.state_dict().items():
        for stock, theirs in LLAVA_NAMES.items():
            name = name.replace(stock, theirs)
        if with_tower or not name.startswith("model.vision_tower."):
            named[name] = tensor.clone()
    return named


def projector_of(model: Any) -> dict[str, Tensor]:
    """The projector's weights alone, under those names."""
    named = llava_names(model, with_tower=False)
    return {name: tensor for name, tensor in named.items() if "mm_projector" in name}


def llava_config(case: Any, **changes: Any) -> dict[str, Any]:
    """LLaVA-1.5's config.json: the LLM's, flat, with the mm_* keys; None drops one."""
    config = case.model.config.text_config.to_dict() | {
        "_name_or_path": str(case.llm),
        "model_type": "llava_llama",
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_vision_tower": case.tower,
        "use_mm_proj": True,
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": 32,
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_patch_merge_type": "flat",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": "pad",
        "tokenizer_model_max_length": 777,
        "tokenizer_padding_side": "right",
        "tune_mm_mlp_adapter": False,
        "freeze_mm_mlp_adapter": False,
        "mm_projector_lr": None,
        "unfreeze_mm_vision_tower": False,
        "rope_scaling": None,
        "pretraining_tp": 1,
        "torch_dtype": "float16",
    }
    return {k: v for k, v in (config | changes).items() if v is not None or k not in changes}


def copy_tokenizer(case: Any, folder: Path) -> None:
    for name in ("tokenizer.model", "tokenizer_config.json"):
        (folder / name).write_bytes((case.llm / name).read_bytes())


def write_full(case: Any, folder: Path, *, form: str, with_tower=True, **config: Any) -> Path:
    """A whole checkpoint; `form` is bin (two shards and an index) or safetensors (one file)."""
    folder.mkdir(parents=True)
    weights = llava_names(case.model, with_tower=with_tower)
    if form == "bin":
        weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        names = sorted(weights)
        weight_map = {}
        for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
            file = f"pytorch_model-{number:05d}-of-00002.bin"
            torch.save({name: weights[name] for name in part}, folder / file)
            weight_map |= dict.fromkeys(part, file)
        index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    else:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(llava_config(case, **config)))
    (folder / "generation_config.json").write_text(json.dumps(VICUNAS_GENERATION))
    copy_tokenizer(case, folder)
    return folder


def write_projector_only(case: Any, folder: Path, prefix="model.", **config: Any) -> Path:
    """What LLaVA's stage 1 leaves."""
    folder.mkdir(parents=True)
    state = {prefix + k.removeprefix("model."): t for k, t in projector_of(case.model).items()}
    torch.save(state, folder / "mm_projector.bin")
    (folder / "config.json").write_text(json.dumps(llava_config(case, **config)))
    return folder


def write_lora(case: Any, folder: Path, base: str, *, form="safetensors", **settings: Any) -> Path:
    """What LLaVA's LoRA training leaves; `case.updates` gets each layer's A and B."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(8)
    case.updates, adapter = {}, {}
    for layer in ("0.self_attn.q_proj", "1.mlp.down_proj"):
        weight = case.model.get_parameter(f"model.language_model.layers.{layer}.weight")
        a = torch.randn(4, weight.shape[1], generator=generator)
        b = torch.randn(weight.shape[0], 4, generator=generator)
        case.updates[layer] = (a, b)
        key = f"base_model.model.model.layers.{layer}"
        adapter |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
    if form == "safetensors":
        save_file(adapter, folder / "adapter_model.safetensors")
    else:
        torch.save(adapter, folder / "adapter_model.bin")
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.05,
        "bias": "none",
        "task_type": "CAUSAL_LM",
        "target_modules": ["q_proj", "down_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    state = {f"base_model.model.{name}": t for name, t in projector_of(case.model).items()}
    torch.save(state, folder / "non_lora_trainables.bin")
    (folder / "config.json").write_text(json.dumps(llava_config(case)))
    return folder
