"""Checkpoints in and out under ZeRO-3, on two ranks that are forked after one import."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from llava_layouts import write_full, write_lora, write_projector_only
from model_world import write
from transformers.integrations import HfDeepSpeedConfig

from llava_sea.conversation import get_template
from llava_sea.model.load import load_llava
from llava_sea.model.lora import base_fingerprint
from llava_sea.model.projector_io import whole_tensors
from llava_sea.model.write import write_llava
from llava_sea.train.train import init_distributed


def load_partitioned(folders: list[Path], out: Path) -> None:
    """Be one rank: load each folder, gather its weights, and write the first one again."""
    init_distributed()
    settings = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}
    zero3 = HfDeepSpeedConfig(settings)  # must stay alive
    for number, folder in enumerate(folders):
        loaded = load_llava(str(folder))
        model = loaded.model
        found = {
            "fingerprint": base_fingerprint(model.model.language_model),
            "partitioned": sum(p.numel() == 0 for p in model.parameters()),
            "state": whole_tensors(model.named_parameters(remove_duplicate=False)),
        }
        if dist.get_rank() == 0:
            torch.save(found, out / f"{number}.pt")
            if number == 0:
                parts = (model, loaded.tokenizer, loaded.transform, get_template("v1"))
                write_llava(out / "written", *parts, state_dict=found["state"])
    dist.barrier()
    del zero3


@pytest.mark.deepspeed
def test_every_kind_loads_as_it_does_on_one_process(case, tmp_path, fork):
    folders = [
        write_full(case, tmp_path / "a", form="bin", with_tower=False),
        write_full(case, tmp_path / "b", form="safetensors"),
        write_projector_only(case, tmp_path / "c"),
        write_lora(case, tmp_path / "d", str(case.llm)),
        tmp_path / "e",
    ]
    write(case, folders[-1])
    for rank in fork(load_partitioned, folders, tmp_path):
        assert rank.process.exitcode == 0, rank.log.read_text()[-3000:]
    for number, folder in enumerate(folders):
        found = torch.load(tmp_path / f"{number}.pt", weights_only=True)
        expected = load_llava(str(folder)).model
        assert found["partitioned"] == len(list(expected.parameters()))
        assert found["fingerprint"] == base_fingerprint(expected.model.language_model)
        assert found["state"].keys() == expected.state_dict().keys()
        for name, tensor in expected.state_dict().items():
            torch.testing.assert_close(found["state"][name], tensor, rtol=0, atol=0, msg=name)
    again = load_llava(str(tmp_path / "written")).model.state_dict()
    projector = "model.multi_modal_projector.linear_1.weight"
    assert torch.equal(again[projector], case.model.state_dict()[projector])
