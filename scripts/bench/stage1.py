"""A stage-1 step with SEA, without, in a plain loop: `python scripts/bench/stage1.py [--quick]`.

CPU: a Llama and a CLIP of a few million parameters with random weights; time of a step (forward,
backward, clipping, AdamW) in turns, and peak memory above the model in fresh processes. The plain
loop takes the same model without our wrapper, logits for every token. SEA as preset `paper` and
`best` train differ in lambda and temperature alone, so their steps cost the same; both are run.

`--device cuda`: CLIP-L/336 and a 7B Llama shape in bfloat16, per-device batch 16, 32 and 64:
tokens/s, MFU and peak memory, SDPA against each FlashAttention that can be imported, with and
without Liger; from the first size on that does not fit, activations are recomputed. MFU counts 2
operations a weight and token forward, as much again backward through the frozen LLM (gradients of
inputs only), the attention's products, and the tower forward; the peak is BF16_PEAK. Limits: no
data loading, no ZeRO; the CUDA part was not run where this was written.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
from pathlib import Path
from typing import Any

import torch
from common.rows import Row, run_bench
from common.stage1_world import (
    REAL,
    SMALL,
    Shape,
    build,
    make_batch,
    optimizer,
    plain_step,
    step,
    wrap,
)
from common.timing import best_seconds, cuda_peak_extra_bytes, peak_extra_bytes

from llava_sea.errors import UserError

BF16_PEAK = {"H200": 989e12, "H100": 989e12, "H800": 989e12, "A100": 312e12}
"""Dense bfloat16 FLOP/s by a part of the GPU's name."""
ARMS = {"without SEA": None, "SEA, paper": "paper", "SEA, best": "best"}


def _memory_script(preset: str | None, plain: bool, records: int) -> str:
    return f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from common.stage1_world import *
def prepare():
    model = wrap(build(SMALL, "cpu"), {preset!r})
    batch = make_batch(SMALL, {records}, "cpu", labels={preset is not None})
    adam = optimizer(model)
    (plain_step if {plain} else step)(model.llava if {plain} else model,
        make_batch(SMALL, 1, "cpu", labels={preset is not None}), adam)
    return model, batch, adam
def call(made):
    model, batch, adam = made
    (plain_step if {plain} else step)(model.llava if {plain} else model, batch, adam)
"""


def measure_cpu(args: argparse.Namespace) -> list[Row]:
    """Time and memory at a small shape."""
    records, rounds = (4, 4) if args.quick else (8, 15)
    calls = {}
    for name, preset in ARMS.items():
        model = wrap(build(SMALL, "cpu"), preset)
        batch = make_batch(SMALL, records, "cpu", labels=preset is not None)
        adam = optimizer(model)
        calls[name] = lambda m=model, b=batch, a=adam: step(m, b, a)
    plain = wrap(build(SMALL, "cpu"), None)
    bare, bare_adam = make_batch(SMALL, records, "cpu", labels=False), optimizer(plain)
    calls["plain loop"] = lambda: plain_step(plain.llava, bare, bare_adam)
    best = best_seconds(calls, rounds)
    memory = {
        name: peak_extra_bytes(_memory_script(preset, False, records))
        for name, preset in ARMS.items()
    }
    memory["plain loop"] = peak_extra_bytes(_memory_script(None, True, records))
    count = sum(p.numel() for p in plain.parameters()) / 1e6
    tokens = records * (SMALL.patches + 1 + 32)
    note = f"{count:.0f}M parameters, {records} records, {tokens} tokens"
    rows = []
    for name in ("SEA, paper", "SEA, best", "plain loop"):
        rows += [
            Row(f"step, {name} / without SEA, x", best[name] / best["without SEA"], note=note),
            Row(f"peak memory, {name} / without SEA, x", memory[name] / memory["without SEA"]),
        ]
    rows.append(Row("step without SEA, ms", best["without SEA"] * 1e3))
    rows.append(Row("peak memory of a step without SEA, MiB", memory["without SEA"] / 2**20))
    return rows


def flops_per_step(shape: Shape, records: int, length: int) -> float:
    """Count the useful operations of a stage-1 step; see the docstring above."""
    llm = shape.layers * (4 * shape.hidden**2 + 3 * shape.hidden * shape.inner)
    attention = shape.layers * 2 * length * shape.hidden  # causal: half of 4 L D a token
    tower = shape.tower_layers * (
        4 * shape.tower_hidden**2 + 2 * shape.tower_hidden * shape.tower_inner
    )
    seen = shape.tower_layers * 4 * shape.patches * shape.tower_hidden
    projector = shape.tower_hidden * shape.hidden + shape.hidden**2
    head = 32 * shape.hidden * shape.vocab
    per_record = 2 * 2 * (length * llm + head) + 3 * length * attention
    per_record += shape.patches * (2 * tower + seen) + 6 * shape.patches * projector
    return float(records * per_record)


def attentions() -> dict[str, str | None]:
    """Return each attention, and why it cannot be had (None: it can)."""
    from llava_sea.train.train_mem import FLASH_ATTENTION, can_use

    found: dict[str, str | None] = {"sdpa": None}
    for name, (module, _, _) in FLASH_ATTENTION.items():
        missing = f"{module} is not installed, or not for this GPU"
        found[name] = None if can_use(name) else missing
    return found


def measure_cuda(args: argparse.Namespace) -> list[Row]:
    """Tokens/s, MFU and peak memory at the real shape."""
    rounds, sizes = (2, (16,)) if args.quick else (5, (16, 32, 64))
    rows = []
    for liger in (False, True):  # the plain ones first: Liger's rope stays for the whole process
        for attention, missing in attentions().items():
            name = f"{attention}{', Liger' if liger else ''}"
            if missing is not None:
                rows.append(Row(f"{name}: tokens/s", None, note=missing))
                continue
            try:
                rows += _attention_rows(name, attention, liger, sizes, rounds)
            except UserError as error:
                rows.append(Row(f"{name}: tokens/s", None, note=str(error)))
            gc.collect()
            torch.cuda.empty_cache()
    return rows


def _attention_rows(
    name: str, attention: str, liger: bool, sizes: tuple[int, ...], rounds: int
) -> list[Row]:
    """Return the rows of all sizes and arms; from the first size that needs it on, recomputed."""
    llava = build(REAL, "cuda", attention)
    models = {arm: wrap(llava, preset) for arm, preset in ARMS.items()}
    if liger:
        from llava_sea.train.liger import use_liger

        for model in models.values():
            use_liger(model, None, zero3=False)
    rows, recomputes = [], False
    for records in sizes:
        found = {arm: _cuda_rows(models[arm], arm, records, rounds) for arm in ARMS}
        if None in found.values() and not recomputes:
            recomputes = True
            for model in models.values():
                model.activation_checkpointing_enable({"use_reentrant": False})
            found = {arm: _cuda_rows(models[arm], arm, records, rounds) for arm in ARMS}
        how = ", recomputed" if recomputes else ""
        for arm, measured in found.items():
            title = f"{name}, {arm}, {records}{how}: tokens/s"
            if measured is None:
                rows.append(Row(title, None, note="out of memory"))
                continue
            tokens, *others = measured
            rows += [dataclasses.replace(tokens, what=title), *others]
    return rows


def _cuda_rows(model: Any, arm: str, records: int, rounds: int) -> list[Row] | None:
    """Return tokens/s, MFU and peak memory, or None where the step does not fit."""
    batch = make_batch(REAL, records, "cuda", labels=ARMS[arm] is not None)
    adam = optimizer(model)
    length = batch["input_ids"].shape[1]
    try:
        seconds = best_seconds({"step": lambda: step(model, batch, adam)}, rounds, "cuda")["step"]
        extra = cuda_peak_extra_bytes(lambda: step(model, batch, adam))
    except torch.cuda.OutOfMemoryError:
        seconds = None  # what the exception holds is freed first
    if seconds is None:
        model.zero_grad()
        gc.collect()
        torch.cuda.empty_cache()
        return None
    peak = next((p for n, p in BF16_PEAK.items() if n in torch.cuda.get_device_name()), None)
    used = flops_per_step(REAL, records, length) / seconds
    total = torch.cuda.max_memory_allocated() / 2**30
    return [
        Row("tokens/s", records * length / seconds),
        Row("  MFU, %", 100 * used / peak if peak else None, note=f"{used / 1e12:.0f} TFLOP/s"),
        Row("  peak memory, GiB", total, note=f"{extra / 2**30:.1f} above the model"),
    ]


def measure(args: argparse.Namespace) -> list[Row]:
    """Measure on the device that is asked for."""
    return measure_cuda(args) if args.device == "cuda" else measure_cpu(args)


if __name__ == "__main__":
    run_bench("stage1", __doc__, measure)
