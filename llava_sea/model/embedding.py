"""A Llava whose LLM is an embedding table: all that the alignment loss needs of it (eq. 10).

The LLM's other weights stay on the meta device, and their values are never read: safetensors and
torch files are mapped, so of 14 GB a table of a quarter is all that leaves the disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration
from transformers.utils.hub import cached_file

from llava_sea.errors import UserError
from llava_sea.model.builder import build_llava
from llava_sea.model.load_weights import read_weights


def build_llava_without_llm(
    llm_path: str,
    tower_path: str,
    *,
    cache_dir: str | None = None,
    **options: Any,
) -> LlavaForConditionalGeneration:
    """Build a Llava that can project images and look up words; options are `build_llava`'s.

    A scale that some LLMs (Gemma) put on their embeddings is left out: the loss is of cosines.

    Raises:
        UserError: as `build_llava`, or if the table is not found in the LLM's files.
    """
    llava = build_llava(
        llm_path,
        tower_path,
        cache_dir=cache_dir,
        llm_options={"device_map": "meta"},
        **options,
    )
    llm: Any = llava.model.language_model
    shell: nn.Module = llm.get_input_embeddings()
    weight: Any = shell.weight
    name = next(name for name, parameter in llm.named_parameters() if parameter is weight)
    if Path(llm_path).is_dir():
        folder = Path(llm_path)
    else:  # its files are in the cache: the shell was made from them
        folder = Path(str(cached_file(llm_path, "config.json", cache_dir=cache_dir))).parent
    table = find_tensor(folder, name)
    if table.shape != weight.shape:
        raise UserError(
            f"{folder}: {name} has shape {tuple(table.shape)}, its config.json says "
            f"{tuple(weight.shape)}"
        )
    embeddings = nn.Embedding.from_pretrained(table.to(weight.dtype), freeze=True)
    llava.model.language_model = EmbeddingTable(embeddings, llm.config)
    llava.lm_head = nn.Identity()
    return llava


class EmbeddingTable(nn.Module):
    """Stands where an LLM was."""

    def __init__(self, embeddings: nn.Embedding, config: Any) -> None:
        super().__init__()
        self.embed_tokens, self.config = embeddings, config

    def get_input_embeddings(self) -> nn.Module:
        """Return the table."""
        return self.embed_tokens

    def gradient_checkpointing_enable(self, *_: Any, **__: Any) -> None:
        """Nothing is recomputed: there are no layers."""


def find_tensor(folder: Path, name: str) -> Tensor:
    """Read one tensor of a checkpoint, whatever prefix its files put before the name.

    Raises:
        UserError: if there is none, or more than one.
    """
    weights = read_weights(folder)
    found = [key for key in weights if key == name or key.endswith(f".{name}")]
    if len(found) != 1:
        raise UserError(
            f"{folder}: the language model's embeddings were looked for as {name!r}, found: "
            f"{', '.join(found) or 'nothing'}"
        )
    return weights[found[0]].clone(memory_format=torch.contiguous_format)
