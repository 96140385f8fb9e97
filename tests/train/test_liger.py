"""--use_liger_kernel is used or refused; what a run computes with is logged."""

import importlib.util
import logging

import pytest
import torch

from llava_sea.errors import UserError
from llava_sea.model.builder import build_llava
from llava_sea.model.stage1 import Stage1Model
from llava_sea.train.liger import check_liger
from llava_sea.train.parse import parse_args
from llava_sea.train.precision import describe


def test_refused_where_it_is_not_installed(monkeypatch, stage1_flags, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install liger-kernel"):
        check_liger(None)
    with pytest.raises(UserError, match="liger-kernel is not installed"):
        parse_args(stage1_flags(tmp_path / "run", use_liger_kernel=True))


def test_refused_without_a_gpu_and_for_unknown_kernels(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="need a GPU"):
        check_liger(None)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    check_liger({"rope": False, "fused_linear_cross_entropy": True})
    with pytest.raises(UserError, match="cross_entropy cannot be used"):
        check_liger({"cross_entropy": True})


def test_the_kernels_are_read_from_a_command_line(monkeypatch, stage1_flags, tmp_path):
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


def test_arithmetic_is_said_in_a_line(tiny):
    llava = build_llava(str(tiny.llm), str(tiny.clip), dtype=torch.bfloat16, attention="eager")
    model = Stage1Model(llava)
    model.trainable_to_float32()
    line = describe(model)
    assert "frozen bfloat16, trained float32" in line
    assert "attention LLM eager, tower eager" in line
    assert ("TF32 no GPU" in line) == (not torch.cuda.is_available())


def test_a_run_logs_it_before_its_first_step(train_line):
    assert train_line.count("weights frozen float32, trained float32; TF32") == 1
    assert "attention LLM sdpa, tower sdpa; Liger: none" in train_line


@pytest.fixture
def train_line(stage1_flags, tmp_path, monkeypatch, caplog):
    from llava_sea.train import train

    monkeypatch.setattr(train, "set_up_logging", lambda: None)
    monkeypatch.setattr("sys.argv", ["train", *stage1_flags(tmp_path / "run", max_steps=1)])
    with caplog.at_level(logging.INFO, "llava_sea"):
        train.train()
    return "\n".join(record.getMessage() for record in caplog.records)
