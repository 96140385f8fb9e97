"""Exact top-10 words per patch: against FAISS and the bare matrix product.

`python scripts/bench/miner.py [--quick] [--device cuda]`. Rows of length 1 drawn at random in 768
dimensions, torch's number of threads for all. The bare product is float32, whole or in blocks
into a buffer that is used again, whichever is faster; nothing is taken from it. FAISS is
`IndexFlatIP.search` of faiss-cpu; without it these rows are not measured. Words are given as they
are: what the miner measures of them beforehand is in its time.

On CUDA: 32 images x 576 patches against 4M words of 768, which stay on the GPU, in TFLOP/s of the
useful product (2 M Q D). The rows of the CPU are not repeated there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

sys.path.insert(0, str(Path(__file__).parent))

from common.rows import Row, run_bench
from common.timing import best_seconds, cuda_peak_extra_bytes, peak_extra_bytes

from llava_sea.alignment import mine_top_words, prepare_words
from llava_sea.alignment.mining import has_tiles

SIZE, TOP_N, CLOSE = 768, 10, 1e-6
FULL, QUICK = (4608, 200_000), (1152, 50_000)

MEMORY = """
import torch
from torch.nn.functional import normalize
from llava_sea.alignment import mine_top_words
torch.set_num_threads({threads})
def prepare():
    rng = torch.Generator().manual_seed(0)
    arrays = [torch.empty(rows, {size}) for rows in ({patches}, {words})]
    for array in arrays:
        for part in array.split(1024):
            part.copy_(normalize(torch.randn(part.shape, generator=rng), dim=1))
    mine_top_words(arrays[0][:256], arrays[1][:4096], {top_n}, precision="{precision}")
    return arrays
def call(arrays):
    mine_top_words(*arrays, {top_n}, precision="{precision}")
"""


def unit_rows(rows: int, seed: int, device: str = "cpu") -> Tensor:
    """Draw rows of length 1, ``(rows, SIZE)``."""
    rng = torch.Generator(device).manual_seed(seed)
    array = torch.empty(rows, SIZE, device=device)
    for part in array.split(262_144):
        part.copy_(normalize(torch.randn(part.shape, generator=rng, device=device), dim=1))
    return array


def bare_product(patches_MD: Tensor, words_QD: Tensor, block: int) -> Callable[[], None]:
    """Return a call that multiplies in blocks of words into one buffer; 0 is the whole at once."""
    block = block or words_QD.shape[0]
    buffer = torch.empty(patches_MD.shape[0] * block)

    def call() -> None:
        for words_BD in words_QD.split(block):
            out = buffer[: patches_MD.shape[0] * words_BD.shape[0]].view(-1, words_BD.shape[0])
            torch.mm(patches_MD, words_BD.T, out=out)

    return call


def compare(patches_MD: Tensor, words_QD: Tensor, ours_MN: Tensor, theirs_MN: Tensor) -> list[Row]:
    """Count rows whose ids differ, and differences that float64 can tell apart."""
    differ_M = (ours_MN != theirs_MN).any(1)
    largest = 0.0
    for row in differ_M.nonzero()[:, 0].tolist():
        patch_D = patches_MD[row].double()
        ours, theirs = ((words_QD[ids[row]].double() @ patch_D) for ids in (ours_MN, theirs_MN))
        largest = max(largest, float((ours - theirs).abs().max()))
    return [
        Row("rows whose ids differ from FAISS", float(differ_M.sum()), note=f"of {len(ours_MN)}"),
        Row("largest difference there, in float64", largest, CLOSE, note="score by score, by rank"),
    ]


def faiss_search(patches_MD: Tensor, words_QD: Tensor, found: list[Any]) -> Callable[[], None]:
    """Return a call of FAISS's exact search, on as many threads as torch has.

    Raises:
        ImportError: if faiss is not there.
    """
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(SIZE)
    index.add(words_QD.numpy())

    def search() -> None:
        found[:] = index.search(patches_MD.numpy(), TOP_N)

    return search


def measure_cpu(args: argparse.Namespace) -> list[Row]:
    """Measure what the CPU column asks for."""
    num_patches, num_words = QUICK if args.quick else FULL
    patches_MD, words_QD = unit_rows(num_patches, 0), unit_rows(num_words, 1)
    sizes = f"{num_patches} x {num_words} x {SIZE}, n = {TOP_N}"
    calls: dict[str, Callable[[], object]] = {
        "whole": bare_product(patches_MD, words_QD, 0),
        "blocks": bare_product(patches_MD, words_QD, 2048),
        "auto": lambda: mine_top_words(patches_MD, words_QD, TOP_N),
        "float32": lambda: mine_top_words(patches_MD, words_QD, TOP_N, precision="float32"),
    }
    found: list[Any] = []
    try:
        calls["faiss"] = faiss_search(patches_MD, words_QD, found)
    except ImportError:
        print("faiss is not importable (pip install faiss-cpu): its rows are not measured")
    seconds = best_seconds(calls, 2 if args.quick else 3)
    calls.clear()  # the whole product's buffer and FAISS's copy
    bare = min(seconds["whole"], seconds["blocks"])
    screen = "bfloat16 (AMX)" if has_tiles() else "float32"
    rows = [
        Row("seconds", seconds["auto"], note=f"{sizes}, screen in {screen}"),
        Row("time / bare float32 product, x", seconds["auto"] / bare, 1.25, note=f"{bare:.2f} s"),
        Row(
            "the same, screen in float32, x",
            seconds["float32"] / bare,
            1.25,
            note="what a processor without AMX does",
        ),
    ]
    if found:
        ours_MN, _ = mine_top_words(patches_MD, words_QD, TOP_N)
        ratio = seconds["faiss"] / seconds["auto"]
        rows.append(Row("FAISS / ours, x", ratio, 3, ">=", f"FAISS {seconds['faiss']:.2f} s"))
        slower = seconds["faiss"] / seconds["float32"]
        rows.append(Row("FAISS / ours, screen in float32, x", slower, 3, ">="))
        rows += compare(patches_MD, words_QD, ours_MN, torch.from_numpy(found[1]))
    else:
        note = "faiss is not importable; pip install faiss-cpu"
        rows.append(Row("FAISS / ours, x", None, 3, ">=", note))
        rows.append(Row("largest difference from FAISS, in float64", None, CLOSE, note=note))
    for precision in ("auto", "float32"):
        script = MEMORY.format(
            threads=torch.get_num_threads(),
            size=SIZE,
            patches=num_patches,
            words=num_words,
            top_n=TOP_N,
            precision=precision,
        )
        share = peak_extra_bytes(script) / (4 * num_patches * num_words)
        name = f"peak extra memory / full scores, {precision}, %"
        rows.append(Row(name, 100 * share, 10, note=sizes))
    return rows


def measure_cuda(args: argparse.Namespace) -> list[Row]:
    """Measure TFLOP/s at the paper's scale, the bare bfloat16 product's beside it."""
    num_patches, num_words = (8 * 576, 500_000) if args.quick else (32 * 576, 4_000_000)
    patches_MD, words_QD = unit_rows(num_patches, 0, "cuda"), unit_rows(num_words, 1, "cuda")
    words = prepare_words(words_QD)
    assert words.rounded_QD is not None
    rounded_QD, short_MD = words.rounded_QD, patches_MD.bfloat16()

    def bare() -> None:
        for words_BD in rounded_QD.split(16_384):
            torch.mm(short_MD, words_BD.T)

    seconds = best_seconds(
        {"ours": lambda: mine_top_words(patches_MD, words, TOP_N), "bare": bare}, 5, "cuda"
    )
    useful = 2 * num_patches * num_words * SIZE / 1e12
    peak = cuda_peak_extra_bytes(lambda: mine_top_words(patches_MD, words, TOP_N))
    sample = patches_MD[:: max(1, num_patches // 64)][:64]
    few = words_QD[:200_000]
    ids, scores = mine_top_words(sample, few, TOP_N)
    cpu_ids, cpu_scores = mine_top_words(sample.cpu(), few.cpu(), TOP_N)
    equal = torch.equal(ids.cpu(), cpu_ids) and torch.equal(scores.cpu(), cpu_scores)
    sizes = f"{num_patches} x {num_words} x {SIZE}"
    return [
        Row("useful TFLOP/s", useful / seconds["ours"], 400, ">=", sizes),
        Row("bare bfloat16 product, TFLOP/s", useful / seconds["bare"], note="output in bfloat16"),
        Row("peak extra memory, GiB", peak / 2**30, note="beside the words in both precisions"),
        Row("ids and scores equal the CPU's", float(equal), 1, ">=", "64 patches, 200,000 words"),
    ]


def measure(args: argparse.Namespace) -> list[Row]:
    """Measure on the device that was asked for."""
    return measure_cuda(args) if args.device == "cuda" else measure_cpu(args)


if __name__ == "__main__":
    run_bench("miner", __doc__, measure)
