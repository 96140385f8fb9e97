"""What a run writes as its model, and how it is read back: one saver for each kind of run.

Under DeepSpeed the engine keeps its own copy of what is trained, beside these files; without it a
run goes on from them. Saving is a collective under ZeRO-3: every rank calls it, one writes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
import torch
from peft import LoraConfig
from transformers import PreTrainedTokenizerBase

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

HEAD_FILE = "alignment_head.safetensors"
ADAPTER_FILE = "adapter_model.safetensors"
NON_LORA_FILE = "non_lora_trainables.bin"
STAGE1_FILES = ("mm_projector.bin", HEAD_FILE, "config.json")


class Saver(Protocol):
    """Writes a run's model into a folder and reads it back."""

    def save(self, model: WrappedLlava, folder: Path, *, write: bool) -> None:
        """Write it; ranks with `write` False only take part in the gathering."""

    def load(self, model: WrappedLlava, folder: Path) -> None:
        """Take over what `save` wrote; for runs without DeepSpeed."""


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    write_atomically(folder / "config.json", json.dumps(config, indent=1).encode())


@dataclass
class Stage1Saver:
    """LLaVA's ``mm_projector.bin``, the temperature and config.json; nothing frozen."""

    config: dict[str, Any]

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


@dataclass
class WholeModelSaver:
    """A plain llava folder that stock transformers opens (`llava_sea.model.write`)."""

    tokenizer: PreTrainedTokenizerBase
    transform: ImageTransform
    template: Template
    config: dict[str, Any]

    def save(self, model: WrappedLlava, folder: Path, *, write: bool) -> None:
        """Write the whole model, the frozen parts too."""
        state = whole_tensors(model.llava.named_parameters(), keep=write)
        if write:
            # Without DeepSpeed what is trained is float32 beside a frozen rest in bfloat16: rounded
            # it could not be gone on from.
            mixed = any(tensor.dtype == torch.float32 for tensor in state.values())
            write_llava(
                folder,
                model.llava,
                self.tokenizer,
                self.transform,
                self.template,
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


@dataclass
class LoraSaver:
    """LLaVA's LoRA folder: adapters, ``non_lora_trainables.bin``, config.json."""

    lora: LoraConfig
    config: dict[str, Any]

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
