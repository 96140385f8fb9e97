"""Where a stage-1 step's time goes: `python scripts/bench/profile_stage1.py [--quick]`.

torch.profiler over a few steps with SEA (preset `paper`; `common/stage1_world.py`'s shapes), the 15
operators of most self time, each with its share, also as JSON. Found on the CPU: half are matrix
products of the frozen LLM and tower, a tenth attention, the rest their norms and activations, and
the softmax of L_g, which sees supervised tokens alone. Nothing of the alignment loss is among
the 15, so no operator was changed for it.
Limits: the CUDA part was not run where this was written.
"""

from __future__ import annotations

import argparse

import torch
from common.rows import Row, run_bench
from common.stage1_world import REAL, SMALL, build, make_batch, optimizer, step, wrap

TOP = 15


def measure(args: argparse.Namespace) -> list[Row]:
    """Profile, and print the table."""
    on_gpu = args.device == "cuda"
    shape, records = (REAL, 32) if on_gpu else (SMALL, 4 if args.quick else 8)
    model = wrap(build(shape, args.device), "paper")
    batch = make_batch(shape, records, args.device, labels=True)
    adam = optimizer(model)
    step(model, batch, adam)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if on_gpu:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(2 if args.quick else 5):
            with torch.profiler.record_function("step"):
                step(model, batch, adam)
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    averages = [event for event in profiler.key_averages() if event.key != "step"]
    total = sum(getattr(event, key) for event in averages)
    averages.sort(key=lambda event: -getattr(event, key))
    return [
        Row(
            f"{event.key}, % of self time",
            100 * getattr(event, key) / total,
            note=f"{event.count} calls, {getattr(event, key) / 1e3:.1f} ms",
        )
        for event in averages[:TOP]
    ]


if __name__ == "__main__":
    run_bench("profile_stage1", __doc__, measure)
