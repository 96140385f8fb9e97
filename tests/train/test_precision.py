"""The attention and the kernels that are asked for run or are refused; a run logs them."""

import importlib.util
import json
import logging

import pytest
import torch
from transformers.utils import is_flash_attn_2_available

from llava_sea.errors import UserError
from llava_sea.model.builder import build_llava
from llava_sea.model.stage1 import Stage1Model
from llava_sea.train import train as module
from llava_sea.train.liger import check_liger
from llava_sea.train.parse import parse_args
from llava_sea.train.precision import build_options, check_attention, describe, log_trainable


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_both_towers_run_the_attention_that_was_asked_for(tiny, attention):
    llava = build_llava(str(tiny.llm), str(tiny.clip), attention=attention)
    llm, tower = llava.model.language_model, llava.model.vision_tower
    for part in (llm, tower, llm.layers[0].self_attn, llava):
        assert part.config._attn_implementation == attention


@pytest.mark.parametrize(
    ("name", "reason"), [("flash_attention_9", "not supported"), ("flash_attention_2", "Flash")]
)
def test_an_attention_that_is_not_there_is_refused_by_its_flag(name, reason):
    if name == "flash_attention_2" and is_flash_attn_2_available():
        pytest.skip("FlashAttention 2 is installed")
    with pytest.raises(UserError, match=f"--attn_implementation {name}: .*{reason}.*pass sdpa"):
        check_attention(name, torch.bfloat16)
    check_attention("sdpa", torch.bfloat16)


def test_liger_is_refused_where_it_is_not_installed(monkeypatch, stage1_flags, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"liger-kernel is not installed; `pip install liger"):
        parse_args(stage1_flags(tmp_path / "run", use_liger_kernel=True))


def test_liger_is_refused_without_a_gpu_and_for_unknown_kernels(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="need a GPU"):
        check_liger(None)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    check_liger({"rope": False, "fused_linear_cross_entropy": True})
    with pytest.raises(UserError, match="cross_entropy cannot be used"):
        check_liger({"cross_entropy": True})


def test_ligers_kernels_are_read_from_a_command_line(monkeypatch, stage1_flags, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: name)
    monkeypatch.setenv("TRITON_INTERPRET", "1")

    def parse(config, use=True):
        options = {"use_liger_kernel": use, "liger_kernel_config": config}
        return parse_args(stage1_flags(tmp_path / "run", **options))[3].liger_kernel_config

    assert parse('{"fused_linear_cross_entropy": false}') == {"fused_linear_cross_entropy": False}
    assert parse("{}") == {}
    for text in ("{rope", "rope", "[1]", '{"rope": "no"}'):
        with pytest.raises(UserError, match=r"--liger_kernel_config .*: pass JSON"):
            parse(text)
    with pytest.raises(UserError, match="--liger_kernel_config needs --use_liger_kernel True"):
        parse('{"rope": false}', use=None)


def test_a_tied_head_counts_once(tiny, caplog):
    """The table of a warm start, which has no head, and that of stage 1 are told alike."""
    llava = build_llava(str(tiny.llm), str(tiny.clip), dtype=torch.float32)
    embedding, head = llava.get_input_embeddings(), llava.get_output_embeddings()
    model = Stage1Model(llava)

    def frozen():
        caplog.clear()
        with caplog.at_level(logging.INFO, "llava_sea"):
            log_trainable(model)
        (row,) = (text.split() for text in caplog.messages if text.startswith("language model"))
        return int(row[-1].replace(",", ""))

    untied = frozen()
    head.weight = embedding.weight
    assert untied - frozen() == embedding.weight.numel()


def test_a_run_says_in_a_line_how_it_computes(tiny, train_here, monkeypatch, caplog):
    llava = build_llava(str(tiny.llm), str(tiny.clip), dtype=torch.bfloat16, attention="eager")
    model = Stage1Model(llava)
    model.trainable_to_float32()
    line = describe(model)
    assert "frozen bfloat16, trained float32" in line and "LLM eager, tower eager" in line
    assert ("TF32 no GPU" in line) == (not torch.cuda.is_available())
    monkeypatch.setattr(module, "set_up_logging", lambda: None)
    with caplog.at_level(logging.INFO, "llava_sea"):
        train_here("run", max_steps=1)
    (line,) = (text for text in caplog.messages if text.startswith("weights frozen"))
    assert "float32, trained float32; TF32" in line
    assert "attention LLM sdpa, tower sdpa; Liger: none" in line


@pytest.mark.parametrize(
    ("flag", "then", "now"),
    [
        ("mm_vision_select_feature", "cls_patch", "patch"),
        ("mm_vision_select_feature", "patch", "cls_patch"),
        ("mm_vision_select_layer", -1, -2),
    ],
)
def test_a_projector_of_other_hidden_states_is_refused(stage1_flags, tmp_path, flag, then, now):
    """They have the same shapes: nothing else would say so."""
    projector = tmp_path / "mm_projector.bin"
    changes = {"pretrain_mm_mlp_adapter": projector, flag: now}
    arguments = parse_args(stage1_flags(tmp_path / "run", **changes))
    build_options(arguments)  # LLaVA's own lie without a config.json
    (tmp_path / "config.json").write_text(json.dumps({flag: then}))
    with pytest.raises(UserError, match=f"--{flag} {now}: {projector} was trained with {then},"):
        build_options(arguments)
    (tmp_path / "config.json").write_text(json.dumps({flag: now}))
    build_options(arguments)
