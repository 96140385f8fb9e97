"""LLaVA's `mm_projector.bin`, out and in.

Keys as LLaVA writes them: ``model.mm_projector.{0,2}.{weight,bias}``. Read with `weights_only`, and
with any prefix before ``mm_projector.`` (LoRA and DeepSpeed runs add their own) or none at all.
Under ZeRO-3 the parameters are gathered for reading and writing.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations import is_deepspeed_zero3_enabled

from llava_sea.errors import UserError
from llava_sea.files import write_atomically
from llava_sea.model.load_weights import read_tensors

LLAVA_TO_HF = {
    "0.weight": "linear_1.weight",
    "0.bias": "linear_1.bias",
    "2.weight": "linear_2.weight",
    "2.bias": "linear_2.bias",
}


def gathered(module: nn.Module, *, write: bool = False) -> AbstractContextManager[Any]:
    """Make a module's parameters whole on every rank; with `write`, rank 0's changes count."""
    return gathered_parameters(list(module.parameters()), write=write)


def gathered_parameters(
    parameters: Sequence[nn.Parameter], *, write: bool = False
) -> AbstractContextManager[Any]:
    """Make parameters whole on every rank; with `write`, rank 0's changes count."""
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    import deepspeed

    context: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(
        list(parameters), modifier_rank=0 if write else None
    )
    return context


def whole_tensors(named: Iterable[tuple[str, nn.Parameter]], *, keep: bool) -> dict[str, Tensor]:
    """Copy parameters to the CPU, one at a time; a collective under ZeRO-3.

    Args:
        named: names and parameters, the same on every rank.
        keep: whether this rank wants them; the others take part and get nothing.
    """
    state = {}
    for name, parameter in named:
        with gathered_parameters([parameter]):
            if keep:
                state[name] = parameter.detach().cpu().clone()
    return state


def projector_state(projector: nn.Module) -> dict[str, Tensor]:
    """Return the projector's tensors under LLaVA's names, on the CPU; a collective under ZeRO-3."""
    with gathered(projector):
        state = {name: p.detach().cpu().clone() for name, p in projector.named_parameters()}
    return {f"model.mm_projector.{llava}": state[hf] for llava, hf in LLAVA_TO_HF.items()}


def save_projector(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write `mm_projector.bin`, or another file of named tensors in torch's format, atomically."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_atomically(path, buffer.getvalue())


def read_projector(path: str | Path) -> dict[str, Tensor]:
    """Read an `mm_projector.bin`, or a folder that holds one, into names of the HF projector.

    Returns:
        ``linear_{1,2}.{weight,bias}`` -> tensor.

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
    loaded = read_tensors(path)
    state: dict[str, Tensor] = {}
    strange = []
    for key, tensor in loaded.items():
        name = key.rpartition("mm_projector.")[2]  # all of it, where the projector's keys are bare
        if name in LLAVA_TO_HF and LLAVA_TO_HF[name] not in state:
            state[LLAVA_TO_HF[name]] = tensor
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
    """Load an `mm_projector.bin` into the model's projector.

    Raises:
        UserError: as `read_projector`, or if a shape does not fit the vision tower and the LLM.
    """
    state = read_projector(path)
    with gathered(projector, write=True):
        for name, parameter in projector.named_parameters():
            if parameter.shape != state[name].shape:
                raise UserError(
                    f"{path}: {name} has shape {tuple(state[name].shape)}, this model needs "
                    f"{tuple(parameter.shape)}; it was trained for another vision tower or LLM"
                )
            parameter.data.copy_(state[name])
