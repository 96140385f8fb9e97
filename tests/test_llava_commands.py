"""LLaVA-1.5's own five command lines, flag for flag, mean what they meant, and run.

The flags and values are those of LLaVA's scripts/v1_5 (pretrain, finetune, finetune_lora,
finetune_task, finetune_task_lora; haotian-liu/LLaVA c121f04).
"""

import json
import socket
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

from llava_sea.model.load import load_llava
from tests.worlds import command_line

COMMON = {
    "vision_tower": "openai/clip-vit-large-patch14-336",
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": "-2",
    "mm_use_im_start_end": "False",
    "mm_use_im_patch_token": "False",
    "bf16": "True",
    "num_train_epochs": "1",
    "per_device_eval_batch_size": "4",
    "gradient_accumulation_steps": "1",
    "evaluation_strategy": "no",
    "save_strategy": "steps",
    "save_total_limit": "1",
    "weight_decay": "0.",
    "warmup_ratio": "0.03",
    "lr_scheduler_type": "cosine",
    "logging_steps": "1",
    "tf32": "True",
    "model_max_length": "2048",
    "gradient_checkpointing": "True",
    "dataloader_num_workers": "4",
    "lazy_preprocess": "True",
    "report_to": "wandb",
}
PRETRAIN = COMMON | {
    "deepspeed": "./zero_configs/zero2.json",
    "model_name_or_path": "lmsys/vicuna-13b-v1.5",
    "version": "plain",
    "data_path": "./playground/data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json",
    "image_folder": "./playground/data/LLaVA-Pretrain/images",
    "tune_mm_mlp_adapter": "True",
    "per_device_train_batch_size": "32",
    "save_steps": "24000",
    "learning_rate": "1e-3",
    "output_dir": "./checkpoints/llava-v1.5-13b-pretrain",
}
STAGE_2 = COMMON | {
    "deepspeed": "./zero_configs/zero3.json",
    "version": "v1",
    "data_path": "./playground/data/llava_v1_5_mix665k.json",
    "image_folder": "./playground/data",
    "image_aspect_ratio": "pad",
    "group_by_modality_length": "True",
    "per_device_train_batch_size": "16",
    "save_steps": "50000",
}
LORA = {
    "lora_enable": "True",
    "lora_r": "128",
    "lora_alpha": "256",
    "mm_projector_lr": "2e-5",
    "learning_rate": "2e-4",
}
FULL = {"learning_rate": "2e-5"}
FROM_STAGE_1 = {
    "model_name_or_path": "lmsys/vicuna-13b-v1.5",
    "pretrain_mm_mlp_adapter": "./checkpoints/llava-v1.5-13b-pretrain/mm_projector.bin",
}
FROM_LLAVA = {"model_name_or_path": "liuhaotian/llava-v1.5-13b"}
TO = "./checkpoints/llava-v1.5-13b"

COMMANDS = {
    "pretrain": PRETRAIN,
    "finetune": STAGE_2 | FULL | FROM_STAGE_1 | {"output_dir": TO},
    "finetune_lora": STAGE_2 | LORA | FROM_STAGE_1 | {"output_dir": f"{TO}-lora"},
    "finetune_task": STAGE_2 | FULL | FROM_LLAVA | {"output_dir": f"{TO}-task"},
    "finetune_task_lora": STAGE_2 | LORA | FROM_LLAVA | {"output_dir": f"{TO}-task-lora"},
}


@pytest.mark.parametrize("name", COMMANDS)
def test_llavas_command_lines_mean_what_they_meant(name, repo, monkeypatch, caplog):
    from llava_sea.train.parse import parse_args

    monkeypatch.chdir(repo)
    flags = COMMANDS[name]
    model, data, sea, args = parse_args(command_line(flags))
    assert "--lazy_preprocess is ignored" in caplog.text
    assert args.eval_strategy == "no" and args.warmup_steps == 0.03
    assert args.lr_scheduler_type == "cosine" and args.num_train_epochs == 1
    assert args.learning_rate == float(flags["learning_rate"])
    assert args.save_steps == int(flags["save_steps"]) and args.gradient_checkpointing
    assert args.model_max_length == 2048 and args.output_dir == flags["output_dir"]
    assert model.model_name_or_path == flags["model_name_or_path"]
    assert model.version == flags["version"] and model.vision_tower == flags["vision_tower"]
    assert model.pretrain_mm_mlp_adapter == flags.get("pretrain_mm_mlp_adapter")
    assert data.image_aspect_ratio == flags.get("image_aspect_ratio", "square")
    assert model.tune_mm_mlp_adapter == (name == "pretrain") and not sea.enabled
    assert args.group_by_modality_length == (name != "pretrain")
    assert args.lora_enable == ("lora_enable" in flags)
    if args.lora_enable:
        assert (args.lora_r, args.lora_alpha, args.mm_projector_lr) == (128, 256, 2e-5)
        assert (args.lora_dropout, args.lora_bias) == (0.05, "none")  # LLaVA's defaults
    else:
        assert args.mm_projector_lr is None


def run(repo, flags):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "llava_sea.train.launch", "--num_gpus", "2"]
    command += ["--master_port", port, "llava_sea/train/train_mem.py", *command_line(flags)]
    done = subprocess.run(
        command, cwd=repo, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def moved(before, after):
    """Whether training has changed the LLM's first attention weights."""
    one, other = (
        next(
            tensor.bfloat16()  # as it is trained: rounding is no change
            for key, tensor in model.state_dict().items()
            if key.endswith("layers.0.self_attn.q_proj.weight") and "vision" not in key
        )
        for model in (before, after)
    )
    return not torch.equal(one, other)


@pytest.mark.slow
@pytest.mark.deepspeed
def test_the_five_run(repo, tmp_path, monkeypatch):
    """As users do, one after another; the paths and the per-device batch alone are changed."""
    models = repo / "playground" / "models"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    draw = [sys.executable, "-m", "playground.generate", "--output", str(tmp_path)]
    subprocess.run(
        [*draw, "--num_train", "24", "--num_heldout", "4"],
        cwd=repo,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    world, out = tmp_path / "mini", {name: tmp_path / f"llava-{name}" for name in COMMANDS}
    records = json.loads((world / "finetune.json").read_text())[:24]
    (world / "finetune.json").write_text(json.dumps(records))
    for name, flags in COMMANDS.items():
        task = name.startswith("finetune_task")
        changed = {
            "vision_tower": models / "clip",
            "model_name_or_path": out["finetune"] if task else models / "llm-small",
            "data_path": world / ("pretrain.json" if name == "pretrain" else "finetune.json"),
            "image_folder": world / "images",
            "per_device_train_batch_size": 4,
            "output_dir": out[name],
        }
        if "pretrain_mm_mlp_adapter" in flags:
            changed["pretrain_mm_mlp_adapter"] = out["pretrain"] / "mm_projector.bin"
        assert changed.keys() <= flags.keys()
        log = run(repo, flags | changed)
        assert "wandb" in log  # asked for by every one of them, and not installed
        if name == "pretrain":
            continue
        base = out["finetune"] if task else models / "llm-small"
        loaded = load_llava(str(out[name]), model_base=str(base) if "lora" in name else None)
        before = load_llava(str(base)).model if task else AutoModelForCausalLM.from_pretrained(base)
        assert moved(before, loaded.model)
