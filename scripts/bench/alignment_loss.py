"""The alignment loss against the full-matrix one, and SEA's share of a stage-1 step.

`python scripts/bench/alignment_loss.py [--quick] [--device cuda]`. Time and peak extra memory of
forward and backward, logits kept and made again, against what everybody writes: normalise, all
logits, two cross-entropies, autograd. The gradient itself is not counted as memory. Then the bytes
that the global loss sends, counted at the calls. Last what SEA adds to a step (`common/addition`):
on a GPU of CLIP-L/336 + a 7B Llama, on a CPU of a small model, which says nothing of the bar.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from common.rows import Row, run_bench
from common.timing import best_seconds, cuda_peak_extra_bytes, peak_extra_bytes
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from llava_sea.alignment import PatchWords, infonce, symmetric_infonce
from llava_sea.alignment.contrast import keeps_logits

MODES = {"kept": True, "made again": False}
BARS = {"kept": (1.2, 0.5), "made again": (1.6, 0.25)}
WORD_TOKENS = 4  # of the longest label word of a batch


def naive(visual_ND: Tensor, text_ND: Tensor, log_scale: Tensor) -> Tensor:
    """Eq. 11 as in CLIP's code: one full matrix, two cross-entropies."""
    visual_ND, text_ND = normalize(visual_ND, dim=-1), normalize(text_ND, dim=-1)
    logits_NN = log_scale.exp() * visual_ND @ text_ND.T
    target_N = torch.arange(len(logits_NN), device=logits_NN.device)
    return (cross_entropy(logits_NN, target_N) + cross_entropy(logits_NN.T, target_N)) / 2


def make(num_pairs: int, size: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Visual tokens, targets and a log-scale; the text side is frozen."""
    torch.manual_seed(0)
    visual_ND = torch.randn(num_pairs, size, device=device).requires_grad_()
    text_ND = torch.randn(num_pairs, size, device=device)
    return visual_ND, text_ND, torch.tensor(2.0, device=device, requires_grad=True)


def step(loss: Callable[..., Tensor], inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[Any, ...]:
    """Forward and backward; returns the gradients."""
    return torch.autograd.grad(loss(*inputs), [inputs[0], inputs[2]])


def losses() -> dict[str, Callable[..., Tensor]]:
    """The three ways by name."""
    ways = {m: functools.partial(symmetric_infonce, keep_logits=k) for m, k in MODES.items()}
    return {"naive": naive, **ways}


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
import alignment_loss as bench
def prepare():
    bench.step(bench.losses()[{way!r}], bench.make(8, {size}, "cpu"))  # libraries are loaded
    return bench.make({pairs}, {size}, "cpu")
def call(inputs):
    bench.step(bench.losses()[{way!r}], inputs)
"""


def memory(way: str, pairs: int, size: int, device: str) -> int:
    """Peak extra bytes of one way, without the gradient's own."""
    if device == "cuda":
        inputs = make(pairs, size, device)
        found = cuda_peak_extra_bytes(lambda: step(losses()[way], inputs))
    else:
        folder = str(Path(__file__).parent)
        script = SCRIPT.format(folder=folder, way=way, pairs=pairs, size=size)
        found = peak_extra_bytes(script)
    return found - 4 * pairs * size


def loss_rows(pairs: int, size: int, rounds: int, device: str) -> list[Row]:
    """Time and memory against the naive loss, and which mode is the default."""
    inputs, ways = make(pairs, size, device), losses()
    calls = {way: functools.partial(step, loss, inputs) for way, loss in ways.items()}
    grads = {way: call() for way, call in calls.items()}
    seconds = best_seconds(calls, rounds, device)
    del inputs, calls
    peak = {way: memory(way, pairs, size, device) for way in ways}
    rows = []
    where = f"N = {pairs:,}, d = {size:,}, float32"
    for mode, (most_time, most_memory) in BARS.items():
        apart = max(
            float((a - b).abs().max() / b.abs().max())
            for a, b in zip(grads[mode], grads["naive"], strict=True)
        )
        time, room = seconds[mode] / seconds["naive"], peak[mode] / peak["naive"]
        timed = f"{where}; {seconds[mode]:.3g} s against {seconds['naive']:.3g} s"
        held = f"{peak[mode] / 1e6:.0f} MB against {peak['naive'] / 1e6:.0f} MB"
        far = "largest difference over largest value, of visual tokens and log-scale"
        rows += [
            Row(f"logits {mode}: time / naive, x", time, most_time, note=timed),
            Row(f"logits {mode}: peak extra memory / naive, x", room, most_memory, note=held),
            Row(f"logits {mode}: gradients against naive", apart, 1e-5, note=far),
        ]
    rule = "by the size of the logits: up to 1 GiB, 16,384 x 16,384, they are kept"
    rows.append(Row("default at this N: kept, 1 yes", float(keeps_logits(pairs, pairs)), note=rule))
    return rows


@contextmanager
def counted() -> Iterator[list[int]]:
    """Count the bytes of tensors that this process hands to collectives."""
    sent = [0]
    saved = dist.all_reduce, dist.all_gather

    def all_reduce(tensor: Tensor, *args: Any, **options: Any) -> Any:
        sent[0] += tensor.nbytes
        return saved[0](tensor, *args, **options)

    def all_gather(parts: list[Tensor], tensor: Tensor, *args: Any, **options: Any) -> Any:
        sent[0] += tensor.nbytes
        return saved[1](parts, tensor, *args, **options)

    dist.all_reduce, dist.all_gather = all_reduce, all_gather
    try:
        yield sent
    finally:
        dist.all_reduce, dist.all_gather = saved


def rank_main(rank: int, world: int, pairs: int, path: str, results: Any) -> None:
    """One rank's ids and loss, as stage 1 with ``--sea_negatives global`` sends them."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world)
    group = dist.group.WORLD
    visual_ND, _, log_scale = make(pairs, 8, "cpu")
    id_N = torch.arange(pairs)
    words_UT = torch.zeros(pairs, WORD_TOKENS, dtype=torch.long)
    words = PatchWords(id_N, torch.ones(pairs, dtype=torch.bool), id_N, words_UT, key_N=id_N)
    words = words._replace(label_N=id_N + rank * pairs, word_U=id_N + rank * pairs)
    with counted() as ids:
        words = words.over_ranks(group)
    text_UD = torch.randn(pairs * world, 8, generator=torch.Generator().manual_seed(1))
    with counted() as sums:
        infonce(visual_ND, text_UD, log_scale, words, group=group, keep_logits=False).backward()
    results[rank] = ids[0], sums[0]
    dist.barrier()
    dist.destroy_process_group()


def traffic_rows(pairs: int) -> list[Row]:
    """Bytes that each of 2 and 4 processes hands over in a step, in the two kinds of calls."""
    rows = []
    for world in (2, 4):
        with tempfile.TemporaryDirectory() as folder, mp.Manager() as manager:
            results = manager.dict()
            path = str(Path(folder) / "rendezvous")
            mp.spawn(rank_main, (world, pairs, path, results), nprocs=world)
            ids, sums = max(results.values())
        assert sums == 16 * pairs * world, "two float32 numbers and an int64 a column"
        embeddings = 2 * 2 * pairs * 4096
        note = (
            f"{pairs:,} pairs a process: ids and word tokens {ids / 1e6:.2f} MB gathered, "
            f"{sums / 1e6:.2f} MB all-reduced; gathering both sides in bfloat16, d = 4,096, "
            f"would hand over {embeddings / 1e6:.0f} MB"
        )
        what = f"{world} processes: handed to collectives a process and step, MB"
        rows.append(Row(what, (ids + sums) / 1e6, note=note))
    return rows


def measure(args: argparse.Namespace) -> list[Row]:
    """All rows."""
    from common.addition import addition_rows  # transformers: the measured processes need none

    pairs, size, rounds = (2304, 4096, 2) if args.quick else (4608, 4096, 5)
    rows = loss_rows(pairs, size, rounds, args.device)
    rows += traffic_rows(512 if args.quick else 4608)
    return rows + addition_rows(args.device, args.quick)


if __name__ == "__main__":
    run_bench("alignment_loss", __doc__, measure)
