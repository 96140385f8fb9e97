"""Checkpoints in and out under ZeRO-3, on two processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from llava_layouts import write_full, write_lora, write_projector_only
from model_world import write

from llava_sea.model.load import load_llava
from llava_sea.model.load_lora import base_fingerprint


@pytest.mark.deepspeed
def test_every_kind_loads_as_it_does_on_one_process(make_case, tmp_path, repo):
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
        port = str(probe.getsockname()[1])
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(repo),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    script = str(Path(__file__).with_name("zero3_load.py"))
    command = [sys.executable, "-m", "llava_sea.train.launch", "--num_gpus", "2"]
    done = subprocess.run(
        [
            *command,
            "--master_port",
            port,
            script,
            json.dumps(list(map(str, folders))),
            str(tmp_path),
        ],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-4000:]
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
