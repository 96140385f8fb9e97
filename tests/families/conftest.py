"""Runs of training, a step long."""

from __future__ import annotations

import logging
import sys

import pytest

from llava_sea.train.train import train
from tests import worlds


@pytest.fixture
def run(tiny, monkeypatch, tmp_path):
    """Train one step with flags; returns the output folder and its metrics."""
    # Training logs to the stdout of its start, which capsys closes.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])

    def start(name: str, **flags):
        output = tmp_path / name
        values = {
            "image_folder": tiny.images,
            "output_dir": output,
            "per_device_train_batch_size": 4,
            "max_steps": 1,
            "learning_rate": 1e-2,
            "warmup_ratio": 0,
            "logging_steps": 1,
            "save_strategy": "no",
            "dataloader_num_workers": 0,
            "report_to": "none",
        }
        monkeypatch.setattr(sys, "argv", ["train.py", *worlds.command_line(values | flags)])
        train()
        return output, worlds.read_metrics(output)[1]

    return start
