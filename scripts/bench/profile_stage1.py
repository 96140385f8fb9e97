"""Where a stage-1 step's time goes: `python scripts/bench/profile_stage1.py [--quick]`.

torch.profiler over a few steps of two loops, at `common/stage1_world.py`'s shapes: before, the
plain loop with logits for every token and without SEA; after, this package's step with SEA (preset
`paper`). Of each the ten operators of most self time, with their milliseconds a step and share,
also as JSON. Found on the CPU: matrix products of the frozen LLM and tower lead both; the
softmax over logits that no label needs is what the package's step has lost; nothing of the
alignment loss is among the ten, so no operator was changed for it.
Limits: on CUDA 16 records (more would not fit into 80 GB without recomputing); that part was not
run where this was written.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from common.rows import Row, run_bench
from common.stage1_world import REAL, SMALL, build, make_batch, optimizer, plain_step, step, wrap

TOP = 10


def measure(args: argparse.Namespace) -> list[Row]:
    """Profile both loops."""
    on_gpu = args.device == "cuda"
    shape, records = (REAL, 16) if on_gpu else (SMALL, 4 if args.quick else 8)
    llava = build(shape, args.device)
    plain, aligned = wrap(llava, None), wrap(llava, "paper")
    bare = make_batch(shape, records, args.device, labels=False)
    labelled = make_batch(shape, records, args.device, labels=True)
    bare_adam, adam = optimizer(plain), optimizer(aligned)
    steps = 2 if args.quick else 5
    return [
        *_profile("before", lambda: plain_step(llava, bare, bare_adam), steps, on_gpu),
        *_profile("after", lambda: step(aligned, labelled, adam), steps, on_gpu),
    ]


def _profile(name: str, call: Callable[[], float], steps: int, on_gpu: bool) -> list[Row]:
    """Return one loop's total and its operators of most self time."""
    call()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if on_gpu:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(steps):
            call()
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    used = {event.key: getattr(event, key) for event in profiler.key_averages()}
    counts = {event.key: event.count for event in profiler.key_averages()}
    total = sum(used.values())
    rows = [Row(f"{name}: self time of all operators, ms a step", total / steps / 1e3)]
    for operator in sorted(used, key=lambda operator: -used[operator])[:TOP]:
        note = f"{100 * used[operator] / total:.1f} %, {counts[operator] / steps:g} calls"
        rows.append(Row(f"{name}: {operator}, ms a step", used[operator] / steps / 1e3, note=note))
    return rows


if __name__ == "__main__":
    run_bench("profile_stage1", __doc__, measure)
