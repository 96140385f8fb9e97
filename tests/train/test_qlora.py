"""QLoRA where bitsandbytes is installed: 4-bit weights trained on, resumed, merged."""

import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from llava_sea.model.load import load_llava


@pytest.mark.slow
def test_trained_resumed_and_merged(run_stage1, stage2_flags, read_metrics, repo, tmp_path):
    pytest.importorskip("bitsandbytes")
    models = repo / "playground" / "models"  # wide enough for the 4-bit kernels
    shared = {"lora_enable": True, "bits": 4, "lora_r": 4, "max_steps": 4, "save_steps": 2}
    shared |= {"model_name_or_path": models / "llm-large", "vision_tower": models / "clip"}
    shared |= {"pretrain_mm_mlp_adapter": None, "model_max_length": 512}
    for name in ("whole", "broken"):
        if name == "broken":  # as if it had been ended after step 2
            shutil.copytree(tmp_path / "whole", tmp_path / "broken")
            for path in (tmp_path / "broken").iterdir():
                if path.name not in ("checkpoint-2", "run.json", "metrics.jsonl"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        run_stage1(stage2_flags(tmp_path / name, **shared))
    whole, broken = read_metrics(tmp_path / "whole"), read_metrics(tmp_path / "broken")
    assert whole[4]["loss"] < whole[1]["loss"]
    assert [whole[s]["loss"] for s in (3, 4)] == [broken[s]["loss"] for s in (3, 4)]
    merged = load_llava(str(tmp_path / "whole"), dtype=torch.float32).model
    assert not any("lora" in name for name in merged.state_dict())
    assert all(torch.isfinite(tensor).all() for tensor in merged.state_dict().values())
    base = AutoModelForCausalLM.from_pretrained(models / "llm-large", dtype=torch.float32).model
    llms = (merged.model.language_model, base)
    one, other = (llm.layers[0].self_attn.q_proj.weight for llm in llms)
    assert not torch.equal(one, other)
