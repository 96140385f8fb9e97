"""A model's weights into safetensors shards, one shard in memory at a time.

The two tables of the vocabulary may grow while they are written (the token ``<image>``). A new row
is the mean of the original ones: its logit is then the mean of theirs, which is never above the
largest of them (and equal only if all are), so a new token is never the most likely one. The live
model is only read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Size, Tensor

from llava_sea.errors import naming
from llava_sea.model.names import EMBEDDING, HEAD, to_written


def grow(table_VD: Tensor, rows: int) -> Tensor:
    """Append the mean row until there are `rows`: ``(V, D)`` -> ``(rows, D)``."""
    missing = rows - len(table_VD)
    if missing <= 0:
        return table_VD
    mean_D = table_VD.mean(dim=0, dtype=torch.float32).to(table_VD.dtype)
    return torch.cat([table_VD, mean_D.expand(missing, -1)])


def written_shape(name: str, tensor: Tensor, rows: int) -> Size:
    """Return the shape that a weight has on disk: the vocabulary's tables have `rows`."""
    return Size((rows, *tensor.shape[1:])) if name in (EMBEDDING, HEAD) else tensor.shape


def write_weights(
    folder: Path,
    state: Mapping[str, Tensor],
    *,
    rows: int,
    tower_type: str,
    dtype: torch.dtype,
    max_shard_size: str | int,
) -> None:
    """Write ``model*.safetensors`` and, with several shards, their index.

    Args:
        folder: where to.
        state: the weights under the stock model's names; without ``lm_head`` if it is tied.
        rows: of the vocabulary's tables.
        tower_type: the vision tower's model type.
        dtype: of all weights.
        max_shard_size: bytes, or like ``5GB`` (5 * 10^9, as in transformers).

    Raises:
        OSError: if a file cannot be written.
    """
    names = {to_written(name, tower_type): name for name in state}
    with torch.device("meta"):  # sizes alone: nothing is copied before its shard's turn
        sizes = {
            written: torch.empty(written_shape(name, state[name], rows), dtype=dtype)
            for written, name in names.items()
        }
    split = split_torch_state_dict_into_shards(
        sizes, filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_size
    )
    for file_name, members in split.filename_to_tensors.items():
        shard = {}
        for written in members:
            tensor = state[names[written]].detach().to("cpu", dtype)
            if tensor.shape != sizes[written].shape:
                tensor = grow(tensor, rows)
            shard[written] = tensor.contiguous()
        _save(shard, folder / file_name)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / "model.safetensors.index.json").write_text(text)


def _save(shard: dict[str, Tensor], path: Path) -> None:
    with naming(path):
        path.touch()
        mode = path.stat().st_mode  # as the umask has it; safetensors' file is the owner's alone
        save_file(shard, path, metadata={"format": "pt"})
        path.chmod(mode)
