"""Savers write the model of a run and read it back; each kind of run has one.

Under DeepSpeed the engine keeps its own copy of what is trained, beside these files; without it a
run resumes from them. Saving is a collective under ZeRO-3: every rank calls it, one writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from peft import LoraConfig
from torch import nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase

from llava_sea.conversation import Template
from llava_sea.data.images import ImageTransform
from llava_sea.errors import naming
from llava_sea.files import write_atomically
from llava_sea.model.load_weights import read_tensors
from llava_sea.model.lora import lora_parameters, non_lora_parameters, restore_lora
from llava_sea.model.projector_io import (
    load_projector,
    projector_state,
    save_projector,
    whole_tensors,
)
from llava_sea.model.stage1 import Stage1Model
from llava_sea.model.wrapped import WrappedLlava
from llava_sea.model.write import write_llava
from llava_sea.train.arguments import Arguments

HEAD_FILE = "alignment_head.safetensors"
ADAPTER_FILE = "adapter_model.safetensors"
NON_LORA_FILE = "non_lora_trainables.bin"


class Saver:
    """Writes a run's model into a folder and reads it back; `config` is its config.json's."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def save(self, model: WrappedLlava, folder: Path, *, write: bool) -> None:
        """Write the model; ranks with `write` False only take part in the gathering."""
        raise NotImplementedError

    def load(self, model: WrappedLlava, folder: Path) -> None:
        """Take over what `save` wrote; for runs without DeepSpeed."""
        raise NotImplementedError

    def num_bytes(self, model: WrappedLlava) -> int:
        """Return about how many bytes `save` writes: four a trained number."""
        return 4 * count(trained(model))


def count(parameters: Iterable[nn.Parameter]) -> int:
    """Return the number of numbers in parameters, whole ones also under ZeRO-3."""
    return sum(getattr(p, "ds_numel", p.numel()) for p in parameters)


def trained(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are trained."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    write_atomically(folder / "config.json", json.dumps(config, indent=1).encode())


class Stage1Saver(Saver):
    """LLaVA's ``mm_projector.bin``, the temperature and config.json; nothing frozen."""

    def save(self, model: WrappedLlava, folder: Path, *, write: bool) -> None:
        """Write the projector and the head."""
        assert isinstance(model, Stage1Model)
        state, head = projector_state(model.projector), model.head_state()
        if not write:
            return
        folder.mkdir(parents=True, exist_ok=True)
        save_projector(folder / "mm_projector.bin", state)
        if head:
            write_atomically(folder / HEAD_FILE, safetensors.torch.save(head))
        _write_config(folder, self.config)

    def load(self, model: WrappedLlava, folder: Path) -> None:
        """Load the projector and the head."""
        assert isinstance(model, Stage1Model)
        load_projector(model.projector, folder)
        if model.head is not None:
            model.load_head_state(safetensors.torch.load_file(folder / HEAD_FILE))


class WholeModelSaver(Saver):
    """A plain llava folder that stock transformers opens (`llava_sea.model.write`)."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        transform: ImageTransform,
        template: Template,
        config: dict[str, Any],
    ) -> None:
        super().__init__(config)
        self.reading = tokenizer, transform, template

    def save(self, model: WrappedLlava, folder: Path, *, write: bool) -> None:
        """Write the whole model, the frozen parts too."""
        state = whole_tensors(model.llava.named_parameters(), keep=write)
        if write:
            # Without DeepSpeed what is trained is float32 beside a frozen rest in bfloat16: rounded
            # it could not be resumed.
            mixed = any(tensor.dtype == torch.float32 for tensor in state.values())
            write_llava(
                folder,
                model.llava,
                *self.reading,
                state_dict=state,
                extra_config=self.config,
                dtype=torch.float32 if mixed else None,
            )

    def load(self, model: WrappedLlava, folder: Path) -> None:
        """Load the weights of a folder that `save` wrote, without the rows that it added."""
        from llava_sea.model.load import load_llava

        stored = load_llava(str(folder)).model.state_dict()
        with torch.no_grad():
            for name, parameter in model.llava.named_parameters():
                parameter.copy_(stored[name][: len(parameter)] if parameter.ndim else stored[name])

    def num_bytes(self, model: WrappedLlava) -> int:
        """The whole model, in float32 where a part of it is."""
        parameters = list(model.parameters())
        return max(p.element_size() for p in parameters) * count(parameters)


class LoraSaver(Saver):
    """LLaVA's LoRA folder: adapters, ``non_lora_trainables.bin``, config.json."""

    def __init__(self, lora: LoraConfig, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.lora = lora

    def save(self, model: WrappedLlava, folder: Path, *, write: bool) -> None:
        """Write what is trained, and what it belongs to."""
        adapters = whole_tensors(lora_parameters(model.llava), keep=write)
        others = whole_tensors(non_lora_parameters(model.llava), keep=write)
        if not write:
            return
        folder.mkdir(parents=True, exist_ok=True)
        data = safetensors.torch.save(adapters, metadata={"format": "pt"})
        write_atomically(folder / ADAPTER_FILE, data)
        save_projector(folder / NON_LORA_FILE, others)
        _write_config(folder, self.config)
        with naming(folder / "adapter_config.json"):
            self.lora.save_pretrained(str(folder))

    def load(self, model: WrappedLlava, folder: Path) -> None:
        """Load the adapters and the projector."""
        state = read_tensors(folder / ADAPTER_FILE) | read_tensors(folder / NON_LORA_FILE)
        restore_lora(model.llava, state, str(folder))


def llava_config(llava: LlavaForConditionalGeneration, arguments: Arguments) -> dict[str, Any]:
    """Return LLaVA's config.json: the LLM's with the `mm_*` keys, which its readers look for."""
    text_config: Any = llava.config.text_config
    return {
        **text_config.to_dict(),
        "_name_or_path": arguments.model.model_name_or_path,
        "model_type": f"llava_{text_config.model_type}",
        "architectures": ["LlavaForConditionalGeneration"],
        **mm_config(llava, arguments),
    }


def mm_config(llava: LlavaForConditionalGeneration, arguments: Arguments) -> dict[str, Any]:
    """Return the keys that LLaVA adds to its LLM's config.json, and the template's name."""
    model_args, data_args, _, args = arguments
    vision_config: Any = llava.config.vision_config
    return {
        "mm_vision_tower": model_args.vision_tower or model_args.model_name_or_path,
        "use_mm_proj": True,
        "mm_projector_type": model_args.mm_projector_type,
        "mm_hidden_size": vision_config.hidden_size,
        "mm_vision_select_layer": model_args.mm_vision_select_layer,
        "mm_vision_select_feature": model_args.mm_vision_select_feature,
        "mm_patch_merge_type": model_args.mm_patch_merge_type,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": data_args.image_aspect_ratio,
        "tune_mm_mlp_adapter": model_args.tune_mm_mlp_adapter,
        "tokenizer_model_max_length": args.model_max_length,
        "tokenizer_padding_side": "right",
        "conversation_template": model_args.version,
    }
