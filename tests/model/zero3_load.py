"""Load checkpoints under ZeRO-3, gather the weights, and write one; started on two processes.

Arguments: a JSON list of folders, and where rank 0 puts ``N.pt`` for each and ``written``.
"""

import json
import sys
from pathlib import Path

import torch
from transformers.integrations import HfDeepSpeedConfig

from llava_sea.conversation import get_template
from llava_sea.model.load import load_llava
from llava_sea.model.load_lora import base_fingerprint
from llava_sea.model.projector_io import gathered
from llava_sea.model.write import write_llava
from llava_sea.train.setup import init_distributed, leave

arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
folders, out = json.loads(arguments[0]), Path(arguments[1])
init_distributed()
zero3 = HfDeepSpeedConfig(
    {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}
)  # must stay alive
rank = torch.distributed.get_rank()
for number, folder in enumerate(folders):
    loaded = load_llava(folder)
    fingerprint = base_fingerprint(loaded.model.model.language_model)
    partitioned = sum(p.numel() == 0 for p in loaded.model.parameters())
    state = {}
    for name, parameter in loaded.model.named_parameters(remove_duplicate=False):
        module_name, _, last = name.rpartition(".")
        with gathered(loaded.model.get_submodule(module_name)):
            state[name] = parameter.detach().cpu().clone()
    if rank == 0:
        result = {"state": state, "fingerprint": fingerprint, "partitioned": partitioned}
        torch.save(result, out / f"{number}.pt")
        if number == 0:
            parts = (loaded.model, loaded.tokenizer, loaded.transform, get_template("v1"))
            write_llava(out / "written", *parts, state_dict=state)
leave()
