"""Parameters whole under ZeRO-3, out and in; LLaVA's `mm_projector.bin`.

Its keys as LLaVA writes them: ``model.mm_projector.{0,2}.{weight,bias}``. It is read with any
prefix before ``mm_projector.`` (LoRA and DeepSpeed runs add their own) or none at all.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations import is_deepspeed_zero3_enabled

from llava_sea.errors import UserError
from llava_sea.files import read_json, write_atomically
from llava_sea.model.load_weights import read_tensors

LLAVA_TO_HF = {
    "0.weight": "linear_1.weight",
    "0.bias": "linear_1.bias",
    "2.weight": "linear_2.weight",
    "2.bias": "linear_2.bias",
}


def gathered(*parameters: nn.Parameter, write: bool = False) -> AbstractContextManager[Any]:
    """Make parameters whole on every rank; with `write`, rank 0's changes count."""
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=0 if write else None)


def whole_tensors(
    named: Iterable[tuple[str, nn.Parameter]], *, keep: bool = True
) -> dict[str, Tensor]:
    """Copy parameters to the CPU, one at a time; a collective under ZeRO-3.

    Without `keep` this rank takes part and gets nothing.
    """
    state = {}
    for name, parameter in named:
        with gathered(parameter):
            if keep:
                state[name] = parameter.detach().cpu().clone()
    return state


def copy_in(parameter: nn.Parameter, tensor: Tensor, what: str, why: str) -> None:
    """Give a parameter new values; a collective under ZeRO-3.

    Raises:
        UserError: if the shape is another one; `why` is the likely reason.
    """
    with gathered(parameter, write=True):
        if parameter.shape != tensor.shape:
            raise UserError(
                f"{what} is {tuple(tensor.shape)}, this model needs {tuple(parameter.shape)}; {why}"
            )
        parameter.data.copy_(tensor)


def projector_state(projector: nn.Module) -> dict[str, Tensor]:
    """Return the projector's tensors under LLaVA's names, on the CPU; a collective under ZeRO-3."""
    state = whole_tensors(projector.named_parameters())
    return {f"model.mm_projector.{llava}": state[hf] for llava, hf in LLAVA_TO_HF.items()}


def save_projector(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write `mm_projector.bin`, or another file of named tensors in torch's format, atomically."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_atomically(path, buffer.getvalue())


def read_projector(path: str | Path) -> dict[str, Tensor]:
    """Read an `mm_projector.bin`, or a folder that holds one, into names of the HF projector.

    Raises:
        UserError: if the file is missing, damaged, or holds anything but a two-layer projector of
            finite numbers.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "mm_projector.bin"
    if not path.is_file():
        raise UserError(
            f"{path}: no such file. --pretrain_mm_mlp_adapter takes the mm_projector.bin that "
            "stage 1 writes into its output folder"
        )
    state: dict[str, Tensor] = {}
    strange = []
    for key, tensor in read_tensors(path).items():
        name = LLAVA_TO_HF.get(key.rpartition("mm_projector.")[2])  # of a bare key, all of it
        if name and name not in state:
            state[name] = tensor
        else:
            strange.append(key)
    missing = [name for name, hf in LLAVA_TO_HF.items() if hf not in state]
    if missing or strange:
        raise UserError(
            f"{path}: not a mlp2x_gelu projector. Missing: {missing or 'nothing'}; "
            f"not understood: {strange or 'nothing'}"
        )
    if not all(tensor.isfinite().all() for tensor in state.values()):
        raise UserError(
            f"{path}: holds numbers that are not finite (nan or inf): the training that wrote it "
            "had diverged. Take an earlier checkpoint's"
        )
    return state


def load_projector(projector: nn.Module, path: str | Path) -> None:
    """Load an `mm_projector.bin` into the model's projector."""
    state = read_projector(path)
    for name, parameter in projector.named_parameters():
        why = "it was trained for another vision tower or LLM"
        copy_in(parameter, state[name], f"{path}: {name}", why)


def check_reading(path: str | Path, layer: int, feature: str) -> None:
    """Refuse a projector of a run that gave it another hidden state or other tokens.

    The run's config.json lies beside it; a projector without one is taken as it is.

    Raises:
        UserError: naming the flag and its value then.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    config = folder / "config.json"
    recorded = read_json(config) if config.is_file() else {}
    for flag, value in (("mm_vision_select_layer", layer), ("mm_vision_select_feature", feature)):
        if recorded.get(flag, value) != value:
            raise UserError(
                f"--{flag} {value}: {path} was trained with {recorded[flag]}, as {config} says; "
                "give the flag that value in both stages"
            )
