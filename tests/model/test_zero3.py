"""Checkpoints in and out under ZeRO-3, on two ranks that are forked after one import."""

from __future__ import annotations

import multiprocessing
import os
import socket
from multiprocessing.connection import wait
from pathlib import Path

import pytest
import torch
from llava_layouts import write_full, write_lora, write_projector_only
from model_world import write
from transformers.integrations import HfDeepSpeedConfig

from llava_sea.conversation import get_template
from llava_sea.model.load import load_llava
from llava_sea.model.load_lora import base_fingerprint
from llava_sea.model.projector_io import gathered
from llava_sea.model.write import write_llava
from llava_sea.train.train import init_distributed

RANKS = 2


def load_partitioned(rank: int, port: int, folders: list[Path], out: Path) -> None:
    """One rank: load each folder, gather its weights, and write the first one again."""
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": RANKS, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in where.items()}
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    torch.set_num_threads(1)  # OpenMP's threads are not there after a fork
    init_distributed()
    settings = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}
    zero3 = HfDeepSpeedConfig(settings)  # must stay alive
    for number, folder in enumerate(folders):
        loaded = load_llava(str(folder))
        found = {
            "fingerprint": base_fingerprint(loaded.model.model.language_model),
            "partitioned": sum(p.numel() == 0 for p in loaded.model.parameters()),
            "state": {},
        }
        for name, parameter in loaded.model.named_parameters(remove_duplicate=False):
            with gathered(loaded.model.get_submodule(name.rpartition(".")[0])):
                found["state"][name] = parameter.detach().cpu().clone()
        if rank == 0:
            torch.save(found, out / f"{number}.pt")
            if number == 0:
                parts = (loaded.model, loaded.tokenizer, loaded.transform, get_template("v1"))
                write_llava(out / "written", *parts, state_dict=found["state"])
    torch.distributed.barrier()
    del zero3
    os._exit(0)  # the test run's own exit handlers are not a rank's


@pytest.mark.deepspeed
def test_every_kind_loads_as_it_does_on_one_process(make_case, tmp_path):
    case = make_case("clip-pad-v1")
    folders = [
        write_full(case, tmp_path / "a", form="bin", with_tower=False),
        write_full(case, tmp_path / "b", form="safetensors"),
        write_projector_only(case, tmp_path / "c"),
        write_lora(case, tmp_path / "d", str(case.llm)),
        tmp_path / "e",
    ]
    write(case, folders[-1])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    ranks = [
        fork.Process(target=load_partitioned, args=(rank, port, folders, tmp_path), daemon=True)
        for rank in range(RANKS)
    ]
    for rank in ranks:
        rank.start()
    wait([rank.sentinel for rank in ranks], timeout=600)
    for rank in ranks:
        if any(other.exitcode for other in ranks):  # the others would wait for it
            rank.terminate()
        rank.join(600)
    assert [rank.exitcode for rank in ranks] == [0] * RANKS
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
