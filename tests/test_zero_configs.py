import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "zero_configs"


@pytest.mark.parametrize(("name", "stage"), [("zero2", 2), ("zero3", 3), ("zero3_offload", 3)])
def test_training_flags_decide_what_the_files_leave_open(name, stage):
    config = json.loads((FOLDER / f"{name}.json").read_text())
    assert config["zero_optimization"]["stage"] == stage
    # With these blocks --mm_projector_lr and --lr_scheduler_type would be dropped without a word.
    assert not {"optimizer", "scheduler"} & config.keys()
    for key in (
        "gradient_clipping",
        "gradient_accumulation_steps",
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
    ):
        assert config[key] == "auto"
    assert config["bf16"] == {"enabled": "auto"}
    assert config["fp16"]["enabled"] == "auto"


def test_offload_differs_from_zero3_by_the_offloading_alone():
    plain = json.loads((FOLDER / "zero3.json").read_text())["zero_optimization"]
    offload = json.loads((FOLDER / "zero3_offload.json").read_text())["zero_optimization"]
    for key in ("offload_optimizer", "offload_param"):
        assert offload.pop(key) == {"device": "cpu", "pin_memory": True}
    assert offload == plain
