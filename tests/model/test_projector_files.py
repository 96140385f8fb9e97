"""Projector files that are none: one line with the file and what is wrong; no code is run."""

import os

import pytest
import torch

from llava_sea.errors import UserError
from llava_sea.model.projector_io import read_projector

KEYS = [f"model.mm_projector.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias")]


def projector(**changes):
    return dict.fromkeys(KEYS, torch.ones(8, 8)) | changes


class Code:
    def __reduce__(self):
        return os.mkdir, ("it ran",)


def write(path, value, cut=0, **options):
    torch.save(value, path, **options)
    if cut:
        path.write_bytes(path.read_bytes()[:-cut])


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        (torch.ones(8), {}, "holds one Tensor, where tensors with their names belong"),
        (projector(epoch=None), {}, "something else than tensors under epoch$"),
        (projector(), {"cut": 900}, "damaged or cut off .its end is missing.; copy or download"),
        (projector(), {"cut": 9, "_use_new_zipfile_serialization": False}, "EOF|cut off"),
        ({"a": Code()}, {}, "pickle can run code .it asks for [a-z]+.mkdir.$"),
        (projector() | {KEYS[0]: torch.tensor([1.0, float("nan")])}, {}, "are not finite"),
        (projector() | {KEYS[3]: torch.tensor([1.0, float("inf")])}, {}, "are not finite"),
        ({KEYS[0]: torch.ones(8)}, {}, "Missing: .'0.bias', '2.weight', '2.bias'."),
        (projector() | {"0.bias": torch.ones(8)}, {}, "nothing; not understood: .'0.bias'"),
        ({"linear_1.weight": torch.ones(8)}, {}, "Missing: .'0.weight'.* understood: .'linear_1"),
    ],
    ids=["bare", "none", "cut", "old-cut", "code", "nan", "inf", "missing", "twice", "strange"],
)
def test_what_is_no_projector_is_said(tmp_path, monkeypatch, value, options, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mm_projector.bin"
    write(path, value, **options)
    with pytest.raises(UserError, match=message) as caught:
        read_projector(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value) and not (tmp_path / "it ran").exists()


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "it is empty"), (b"no tensors", "no format of")]
)
def test_what_is_no_torch_file(tmp_path, content, message):
    (tmp_path / "mm_projector.bin").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_projector(tmp_path)


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("prefix", ["", "mm_projector.", "module.base_model.mm_projector."])
def test_any_prefix_is_taken_and_none(tmp_path, prefix, as_zip):
    path = tmp_path / "mm_projector.bin"
    names = [key.replace("model.mm_projector.", prefix) for key in KEYS]
    state = {name: torch.full((8,), float(n)) for n, name in enumerate(names)}
    write(path, state, _use_new_zipfile_serialization=as_zip)
    state = read_projector(path)
    assert {name: float(tensor[0]) for name, tensor in state.items()} == {
        "linear_1.weight": 0,
        "linear_1.bias": 1,
        "linear_2.weight": 2,
        "linear_2.bias": 3,
    }
