"""Files of checkpoints read: tensors by name, mapped from disk, and settings.

Tensors are in safetensors or torch files, whole or in shards with an index; nothing is read until
it is used. Torch files are pickles: they are opened with `weights_only`, so code in one is refused.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig
from transformers.utils import logging as hf_logging

from llava_sea.errors import UserError
from llava_sea.files import open_file, read_object
from llava_sea.pretrained import load_pretrained

INDEXED = (
    ("model.safetensors.index.json", "model.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin"),
)
"""Index of shards and the name of an unsharded file, in the order in which they are looked for."""


def check_exists(path: str, flag: str) -> None:
    """Refuse what looks like a local folder and is none, before transformers asks a hub for it."""
    looks_local = path.startswith((".", "/", "~")) or path.count("/") > 1
    if looks_local and not Path(path).is_dir():
        raise UserError(f"{flag} {path}: no such folder")


def model_config(path: str, flag: str, cache_dir: str | None, way_out: str = "") -> Any:
    """Return the configuration of a folder or hub id; `flag` is what named it."""
    check_exists(path, flag)
    try:
        return load_pretrained(AutoConfig, path, cache_dir=cache_dir)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{flag} {path}: cannot be loaded ({reason}){way_out}") from None


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' warnings back where weights are compared here, and reported by name."""
    verbosity = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)


def weight_files(folder: Path, *, needed: bool = False) -> list[Path]:
    """List the files that hold a model's weights, [] if the folder has none and needs none.

    Raises:
        UserError: if an index names a file that is not there, or is no index.
    """
    for index, single in INDEXED:
        if (folder / index).is_file():
            return _indexed(folder / index)
        if (folder / single).is_file():
            return [folder / single]
    if needed:
        raise UserError(f"{folder}: no weights there; it holds {listing(folder)}")
    return []


def _indexed(index: Path) -> list[Path]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index}: no index of weights (its weight_map is missing or empty)")
    names = sorted(set(map(str, weight_map.values())))
    strange = [name for name in names if Path(name).name != name]
    if strange:
        raise UserError(f"{index}: names a file outside its folder: {strange[0]!r}")
    absent = [name for name in names if not (index.parent / name).is_file()]
    if absent:
        raise UserError(
            f"{index.parent}: {len(absent)} of the {len(names)} files that {index.name} names are "
            f"not there: {', '.join(absent[:5])}. Get the missing ones: a download was cut off"
        )
    return [index.parent / name for name in names]


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return all weights of a folder under the names in its files."""
    weights: dict[str, Tensor] = {}
    for path in weight_files(folder, needed=True):
        weights |= read_tensors(path)
    return weights


def check_model(path: str | Path) -> None:
    """See that the folder of an LLM or a tower is whole, by config.json and the files' heads.

    A hub id is passed over, and so is a peft adapter, which transformers puts on its base itself.
    """
    folder = Path(path)
    if not folder.is_dir() or (folder / "adapter_config.json").is_file():
        return
    if "model_type" not in read_object(folder / "config.json"):
        raise UserError(f"{folder / 'config.json'}: names no model_type; it is no model's")
    for file in weight_files(folder, needed=True):
        if file.suffix != ".safetensors":
            read_tensors(file)
            continue
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise UserError(_damaged(file, error)) from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read one file of tensors, safetensors by its ending, else torch's format."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with open_file(path) as file:
            is_zip = (
                file.read(2) == b"PK"
            )  # files of torch before 1.6 are none and cannot be mapped
        if is_zip and not zipfile.is_zipfile(path):
            raise EOFError("its end is missing")
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except (SafetensorError, OSError, EOFError) as error:
        raise UserError(_damaged(path, error)) from None
    except Exception as error:  # unpickling raises anything on what is no file of tensors
        raise UserError(
            f"{path}: not a file of tensors alone; it was not loaded, since a pickle can run code "
            f"({_reason(error)})"
        ) from None
    if not isinstance(loaded, Mapping):
        raise UserError(
            f"{path}: holds one {type(loaded).__name__}, where tensors with their names belong"
        )
    strange = [str(name) for name, value in loaded.items() if not isinstance(value, Tensor)]
    if strange:
        raise UserError(f"{path}: holds something else than tensors under {', '.join(strange[:5])}")
    return {str(name): tensor for name, tensor in loaded.items()}


def _damaged(path: Path, error: Exception) -> str:
    return f"{path}: damaged or cut off ({str(error) or 'it is empty'}); copy or download it again"


def _reason(error: Exception) -> str:
    """Return what torch found in a file, without its advice to load that all the same."""
    asked = re.search(r"GLOBAL (\S+)", str(error))
    if asked:
        return f"it asks for {asked[1]}"
    if isinstance(error, pickle.UnpicklingError):
        return "it is in no format of torch's"
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def listing(folder: Path) -> str:
    """Name the first twelve things in a folder, for messages."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return ", ".join(names[:12]) + more or "nothing"
