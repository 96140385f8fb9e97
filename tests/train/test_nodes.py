"""Training on two nodes: the losses of one, and an end with a clear line when the other is gone."""

import time

import pytest

from tests.worlds import curve, kill_tree, read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.deepspeed]

WITHIN_S = 60.0
"""How long the other nodes may take to end when one is gone; its connections are closed."""


def test_nodes_train_stage_1_as_one_does_and_end_when_one_is_killed(
    train_here, nodes, stage1_flags, repo, tmp_path
):
    shared = {"lr_scheduler_type": "constant", "save_strategy": "no", "sea_eval_data": None}
    shared |= {"sea_negatives": "global"}
    one = train_here("one", per_device_train_batch_size=8, max_steps=4, **shared)
    two = tmp_path / "two"
    flags = stage1_flags(two, per_device_train_batch_size=4, max_steps=100_000, **shared)
    config = ("--deepspeed", repo / "zero_configs/zero2.json")
    first, second = nodes(repo / "llava_sea/train/train_mem.py", *config, *flags)
    while len(read_metrics(two) if (two / "metrics.jsonl").exists() else ()) < 5:
        assert first.process.poll() is None, first.log.read_text()[-3000:]
        time.sleep(0.1)
    kill_tree(second.process.pid)
    killed_at = time.monotonic()
    assert first.process.wait(WITHIN_S) not in (0, None)
    print(f"ended {time.monotonic() - killed_at:.1f} s later")
    last = first.log.read_text().splitlines()[-1]
    assert "error: a process of this run died" in last and "last complete checkpoint" in last
    for step, values in curve(one).items():
        assert curve(two)[step] == pytest.approx(values, rel=2e-4), step


def test_nodes_train_stage_2_as_one_does(tune_here, nodes, stage2_flags, repo, tmp_path):
    shared = {"max_steps": 4, "save_strategy": "no"}
    one = tune_here("one", per_device_train_batch_size=4, **shared)
    flags = stage2_flags(tmp_path / "two", per_device_train_batch_size=2, **shared)
    config = ("--deepspeed", repo / "zero_configs/zero3.json")
    both = nodes(repo / "llava_sea/train/train_mem.py", *config, *flags)
    assert [node.process.wait(300) for node in both] == [0, 0], both[0].log.read_text()[-3000:]
    found = curve(tmp_path / "two")
    assert found.keys() == curve(one).keys() and (tmp_path / "two/model.safetensors").exists()
    for step, values in curve(one).items():
        assert found[step] == pytest.approx(values, rel=2e-4), step
