"""Bytes of a stage-1 checkpoint for each trainable parameter: `python scripts/bench/checkpoint.py`.

Starts the training command on one process with a random CLIP and a one-layer Llama of realistic
widths (1024 -> 4096, in --quick 256 -> 1024), so the projector is as large as LLaVA's, and weighs
what it wrote: mm_projector.bin, temperature, optimizer, schedule, RNG, trainer state, checksums.
Asked is 18 bytes a parameter under bf16 and 22 under float32, and 2 MB beside them, which are not
used here: all is counted. Without DeepSpeed and with ZeRO-2; --quick: the latter in bf16. Limits:
one process; on a CPU (there alone, also where there is a GPU) bf16 is forced with --use_cpu.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from common.rows import Row, run_bench
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.models.clip import CLIPImageProcessorPil

from llava_sea.pretrained import load_pretrained

REPO = Path(__file__).parents[2]


def make_world(root: Path, narrow: int, wide: int) -> None:
    """Write a random tower, an LLM with the miniature world's tokenizer, and two images."""
    tokenizer = load_pretrained(AutoTokenizer, REPO / "playground/models/llm-small")
    heads = {"num_hidden_layers": 1, "num_attention_heads": 4}
    llm = LlamaConfig(vocab_size=len(tokenizer), hidden_size=wide, intermediate_size=256, **heads)
    LlamaForCausalLM(llm).save_pretrained(root / "llm")
    tokenizer.save_pretrained(root / "llm")
    tower = CLIPVisionConfig(
        hidden_size=narrow,
        intermediate_size=256,
        image_size=28,
        patch_size=14,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    CLIPVisionModel(tower).save_pretrained(root / "clip")
    side = {"height": 28, "width": 28}
    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=side)
    processor.save_pretrained(root / "clip")
    records = []
    for number in range(4):
        Image.new("RGB", (40, 30), (number * 60, 0, 0)).save(root / f"{number}.png")
        turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a red circle"}]
        records.append({"id": str(number), "image": f"{number}.png", "conversations": turns})
    (root / "data.json").write_text(json.dumps(records))


def run_training(root: Path, name: str, bf16: bool, engine: bool, device: str) -> tuple[int, int]:
    """Train one step; return the bytes of its checkpoint and the projector's parameters.

    Raises:
        RuntimeError: if the command fails.
    """
    output = root / name
    values = {
        "model_name_or_path": root / "llm",
        "vision_tower": root / "clip",
        "version": "plain",
        "tune_mm_mlp_adapter": True,
        "data_path": root / "data.json",
        "image_folder": root,
        "output_dir": output,
        "bf16": bf16,
        "per_device_train_batch_size": 2,
        "max_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "report_to": "none",
        "use_cpu": device == "cpu",
    }
    flags = [token for flag, value in values.items() for token in (f"--{flag}", str(value))]
    env = os.environ | {"PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1"}
    if device == "cpu":
        env |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    script = str(REPO / "llava_sea/train/train_mem.py")
    if engine:
        flags += ["--deepspeed", str(REPO / "zero_configs/zero2.json")]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            env["MASTER_PORT"] = str(probe.getsockname()[1])
        env |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    done = subprocess.run([sys.executable, script, *flags], capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError(f"training failed: {(done.stdout + done.stderr)[-3000:]}")
    checkpoint = output / "checkpoint-1"
    size = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    projector = torch.load(checkpoint / "mm_projector.bin", map_location="cpu", weights_only=True)
    return size, sum(tensor.numel() for tensor in projector.values())


def measure(args: argparse.Namespace) -> list[Row]:
    """A row for each way to train."""
    narrow, wide = (256, 1024) if args.quick else (1024, 4096)
    ways = [(False, False), (True, False), (False, True), (True, True)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_world(root, narrow, wide)
        for bf16, engine in ways[3:] if args.quick else ways:
            dtype, how = "bf16" if bf16 else "fp32", "ZeRO-2" if engine else "no DeepSpeed"
            size, count = run_training(root, f"{dtype} {how}", bf16, engine, args.device)
            note = f"{count:,} parameters, {size / 1e6:.2f} MB"
            asked = 18.0 if bf16 else 22.0
            rows.append(
                Row(f"{dtype}, {how}: bytes / trainable parameter", size / count, asked, note=note)
            )
    return rows


if __name__ == "__main__":
    run_bench("checkpoint", __doc__, measure)
