"""The DeepSpeed JSON: it decides about ZeRO alone, as LLaVA's users' own files do not."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from llava_sea.errors import UserError
from llava_sea.train.parse import parse_args
from tests.worlds import curve

# The file that LLaVA's users pass when memory is short: ours, and two blocks that the flags decide.
OFFLOAD = json.loads((Path(__file__).parents[2] / "zero_configs/zero3_offload.json").read_text())
OFFLOAD["optimizer"] = {
    "type": "AdamW",
    "params": dict.fromkeys(("lr", "betas", "eps", "weight_decay"), "auto"),
}
OFFLOAD["scheduler"] = {
    "type": "WarmupLR",
    "params": dict.fromkeys(("warmup_min_lr", "warmup_max_lr", "warmup_num_steps"), "auto"),
}


@pytest.fixture
def parse(tmp_path):
    """Parse flags with a DeepSpeed file of that content; return the training arguments."""

    def run(content, *flags):
        path = tmp_path / "engine.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        needed = ["--model_name_or_path", "m", "--vision_tower", "v", "--data_path", "d"]
        needed += ["--image_folder", "i", "--output_dir", str(tmp_path / "out")]
        *_, args = parse_args([*needed, "--deepspeed", str(path), *flags])
        return args

    return run


def test_optimizer_and_scheduler_are_the_flags_business(parse, caplog):
    with caplog.at_level(logging.WARNING, logger="llava_sea"):
        args = parse(OFFLOAD, "--mm_projector_lr", "1e-6", "--lr_scheduler_type", "cosine")
    config = args.hf_deepspeed_config.config
    assert not {"optimizer", "scheduler"} & set(config)
    assert config["zero_optimization"] == OFFLOAD["zero_optimization"]
    for block, flag in (("optimizer", "--mm_projector_lr"), ("scheduler", "--lr_scheduler_type")):
        (line,) = (line for line in caplog.messages if f"'{block}'" in line)
        assert "engine.json" in line and flag in line


def test_what_the_file_leaves_out_the_flags_decide(parse, caplog):
    given = {"zero_optimization": {"stage": 2}, "gradient_clipping": None}
    flags = ["--gradient_accumulation_steps", "4", "--per_device_train_batch_size", "2"]
    args = parse(given, *flags, "--bf16", "True", "--use_cpu", "True", "--max_grad_norm", "0.5")
    config = args.hf_deepspeed_config.config
    assert config["gradient_accumulation_steps"] == 4
    assert config["train_micro_batch_size_per_gpu"] == 2 and config["train_batch_size"] == 8
    assert config["gradient_clipping"] == 0.5 and "--max_grad_norm" in caplog.text
    assert config["bf16"]["enabled"] is True and config["fp16"]["enabled"] is False


FIXED = {
    "train_micro_batch_size_per_gpu": (8, 4, "--per_device_train_batch_size"),
    "gradient_accumulation_steps": (1, 2, "--gradient_accumulation_steps"),
    "train_batch_size": (8, 256, "--per_device_train_batch_size"),
    "gradient_clipping": (1.0, 0.3, "--max_grad_norm"),
    "fp16": ({"enabled": False}, {"enabled": True}, "--fp16"),
    "bf16": ({"enabled": False}, {"enabled": True}, "--bf16"),
    "amp": ({"enabled": False}, {"enabled": True}, "--bf16"),
    "torch_autocast": ({"enabled": False}, {"enabled": True}, "--bf16"),
}


def test_deepspeeds_old_name_is_refused(parse):
    with pytest.raises(UserError, match=r"engine.json: 'bfloat16' is .* call the block 'bf16'"):
        parse({"zero_optimization": {"stage": 2}, "bfloat16": {"enabled": True}})


@pytest.mark.parametrize("key", FIXED)
def test_a_fixed_value_agrees_with_its_flag_or_is_an_error(parse, key):
    same, other, flag = FIXED[key]
    parse({"zero_optimization": {"stage": 2}, key: same})
    with pytest.raises(UserError, match=rf"engine.json.*{key}.*{flag}"):
        parse({"zero_optimization": {"stage": 2}, key: other})


@pytest.mark.parametrize(
    "content",
    [
        "[1]",
        "3",
        '"zero2"',
        "null",
        "{",
        "{}",
        '{"zero_optimization": 2}',
        '{"zero_optimization": {"stage": "2"}}',
        '{"zero_optimization": {"stage": 2, "offload_optimizer": "cpu"}}',
        '{"zero_optimization": {"stage": 2}, "bf16": true}',
    ],
)
def test_a_file_that_is_no_configuration(parse, content):
    with pytest.raises(UserError, match=r"engine\.json"):
        parse(content)


def test_a_file_that_is_not_there(tmp_path, parse):
    with pytest.raises(UserError, match=r"nowhere\.json"):
        parse(OFFLOAD, "--deepspeed", str(tmp_path / "nowhere.json"))


def test_an_optimizer_that_offloading_would_replace(parse):
    with pytest.raises(UserError, match=r"--optim adafactor.*offload_optimizer"):
        parse(OFFLOAD, "--optim", "adafactor")
    parse(OFFLOAD | {"zero_force_ds_cpu_optimizer": False}, "--optim", "adafactor")


@pytest.mark.deepspeed
@pytest.mark.parametrize(
    "offload",
    [
        False,
        pytest.param(
            True,
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(not shutil.which("g++"), reason="DeepSpeed compiles its Adam"),
            ],
        ),
    ],
)
def test_llavas_file_trains_as_the_flags_say(
    train_here, run_ranks, stage1_flags, tmp_path, offload
):
    zero = dict(OFFLOAD["zero_optimization"])
    if not offload:
        del zero["offload_optimizer"], zero["offload_param"]
    path = tmp_path / "engine.json"
    path.write_text(json.dumps(OFFLOAD | {"zero_optimization": zero}))
    shared = {"save_strategy": "no", "sea_eval_data": None, "mm_projector_lr": 1e-6}
    shared |= {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": '{"min_lr": 5e-3}'}
    shared |= {"warmup_steps": 2}
    one, two = train_here("one", **shared), tmp_path / "two"
    said = run_ranks(stage1_flags(two, **shared), str(path), count=1)
    assert "'optimizer'" in said and "'scheduler'" in said and "1e-06, weight decay" in said
    expected, found = curve(one), curve(two)
    for step, row in expected.items():
        assert found[step] == pytest.approx(row, rel=1e-4), step
