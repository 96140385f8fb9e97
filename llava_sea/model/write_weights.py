"""A model's weights into safetensors shards, one shard in memory at a time.

The two tables of the vocabulary may grow while they are written (the token ``<image>``). A new row
is the mean of the original ones: its logit is then the mean of theirs, which is never above the
largest of them (and equal only if all are), so a new token is never the most likely one. The live
model is only read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from llava_sea.errors import UserError, naming
from llava_sea.model.write_names import to_legacy

EMBEDDING = "model.language_model.embed_tokens.weight"
HEAD = "lm_head.weight"
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def grow(table_VD: Tensor, rows: int) -> Tensor:
    """Append the mean row until there are `rows`: ``(V, D)`` -> ``(rows, D)``."""
    missing = rows - len(table_VD)
    if missing <= 0:
        return table_VD
    mean_D = table_VD.mean(dim=0, dtype=torch.float32).to(table_VD.dtype)
    return torch.cat([table_VD, mean_D.expand(missing, -1)])


def parse_size(size: str | int) -> int:
    """Return a size in bytes; ``5GB`` is 5 * 10^9, as in transformers.

    Raises:
        UserError: if it is no size.
    """
    match = re.fullmatch(r"(\d+) ?([KMG]B|)", str(size).strip().upper())
    if not match or not int(match[1]):
        raise UserError(f"maximum shard size {size!r}: write it like 5GB or 500MB")
    return int(match[1]) * _UNITS[match[2]]


def plan_shards(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Group names, in order, so that each group's bytes stay within a limit; one alone may not."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def write_weights(
    folder: Path,
    state: Mapping[str, Tensor],
    *,
    rows: int,
    tower_type: str,
    dtype: torch.dtype,
    max_shard_size: str | int,
) -> list[str]:
    """Write ``model*.safetensors`` and, with several shards, their index.

    Args:
        folder: where to.
        state: the weights under the stock model's names; without ``lm_head`` if it is tied.
        rows: of the vocabulary's tables.
        tower_type: the vision tower's model type.
        dtype: of all weights.
        max_shard_size: bytes, or like ``5GB``.

    Returns:
        The files' names.

    Raises:
        OSError: if a file cannot be written.
    """
    width = torch.empty(0, dtype=dtype).element_size()
    tables = (EMBEDDING, HEAD)
    sizes = {
        name: width * tensor.numel() // len(tensor) * (rows if name in tables else len(tensor))
        if tensor.ndim
        else width
        for name, tensor in state.items()
    }
    shards = plan_shards(sizes, parse_size(max_shard_size))
    weight_map: dict[str, str] = {}
    for file_name, names in _named(shards):
        shard = {}
        for name in names:
            tensor = state[name].detach().to("cpu", dtype)
            if name in tables:
                tensor = grow(tensor, rows)
            shard[to_legacy(name, tower_type)] = tensor.contiguous()
        _save(shard, folder / file_name)
        weight_map |= dict.fromkeys(shard, file_name)
    files = sorted(set(weight_map.values()))
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        name = "model.safetensors.index.json"
        (folder / name).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
        files.append(name)
    return files


def _named(shards: list[list[str]]) -> Iterator[tuple[str, list[str]]]:
    if len(shards) == 1:
        yield "model.safetensors", shards[0]
        return
    for number, names in enumerate(shards, 1):
        yield f"model-{number:05d}-of-{len(shards):05d}.safetensors", names


def _save(shard: dict[str, Tensor], path: Path) -> None:
    with naming(path):
        path.touch()
        mode = path.stat().st_mode  # as the umask has it; safetensors' file is the owner's alone
        save_file(shard, path, metadata={"format": "pt"})
        path.chmod(mode)
