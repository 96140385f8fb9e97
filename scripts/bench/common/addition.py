"""What SEA adds to a stage-1 step: drawing labels, targets, loss, backward, against the same step.

The model is built from configs with random weights on the device, wrapped as training wraps it.
Drawing is measured apart, on one CPU thread, and counted in full although data workers do it beside
the GPU: the sum is an upper bound.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.rows import Row
from common.stage1_world import REAL, Shape, build, make_batch, wrap
from common.timing import best_seconds
from llava_sea.alignment import (
    LabelStore,
    PatchWords,
    finalize_store,
    keep_one_per_label,
    sample_pairs,
    write_shard,
)

TOP, WORDS, WORD_TOKENS = 10, 20_000, 4


@dataclass(frozen=True)
class Size:
    """A model and a batch."""

    name: str
    shape: Shape
    batch: int

    @property
    def side(self) -> int:
        """Patches along a side."""
        return self.shape.image // self.shape.patch


PAPER = Size("CLIP-L/336 + 7B Llama", REAL, 32)
SMALL = Size(
    "CLIP of 3 layers + Llama of 2, width 256",
    Shape(256, 688, 2, 4, 2048, 128, 512, 3, 4, 168, 14),
    4,
)


def make_store(folder: Path, size: Size) -> LabelStore:
    """Write random labels for a batch's images as a store."""
    rng = np.random.default_rng(0)
    shape = (size.batch, size.side**2, TOP)
    ids = rng.integers(0, WORDS, shape, dtype=np.uint32)
    scores = rng.random(shape).astype(np.float16)
    names = [f"{number}.jpg" for number in range(size.batch)]
    write_shard(folder, 0, names, ids, scores, np.zeros(size.batch, np.uint32))
    (folder / "words.tsv").write_text("".join(f"word{n}\t1\n" for n in range(WORDS)))
    finalize_store(folder, {"grid": [size.side, size.side], "top_n": TOP}, 1)
    return LabelStore(folder)


def draw(store: LabelStore, size: Size, tokens_QT: Tensor) -> PatchWords:
    """Read and draw a batch's pairs, keep one per label, and look its tokens up."""
    patches, labels, keys = [], [], []
    for record in range(size.batch):
        found = store.read(f"{record}.jpg")
        pairs = sample_pairs(
            found.ids_PN,
            found.scores_PN,
            (size.side, size.side),
            window=2,
            seed=0,
            epoch=0,
            record=record,
        )
        patches.append(pairs.patch_K + record * size.side**2)
        labels.append(pairs.label_K)
        keys.append(pairs.key_K)
    label_N, key_N = (torch.from_numpy(np.concatenate(values)) for values in (labels, keys))
    kept_N = keep_one_per_label(label_N, key_N, torch.ones_like(label_N, dtype=torch.bool))
    word_U = label_N.unique()
    patch_N = torch.from_numpy(np.concatenate(patches))
    return PatchWords(label_N, kept_N, word_U, tokens_QT[word_U], patch_N, key_N)


def addition_rows(device: str, quick: bool) -> list[Row]:
    """Return SEA's share of a step; the bar is asked of a GPU alone."""
    size = PAPER if device == "cuda" else SMALL
    model = wrap(build(size.shape, device), "paper")
    batch = make_batch(size.shape, size.batch, device, labels=False)
    tokens_QT = torch.randint(3, size.shape.vocab - 1, (WORDS, WORD_TOKENS))
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), size)
        drawing = best_seconds({"draw": lambda: draw(store, size, tokens_QT)}, 3)["draw"]
        words = draw(store, size, tokens_QT)
    sea = {name: value.to(device) for name, value in words._asdict().items() if value is not None}
    num_pairs = int(words.valid_N.sum())

    def step(sea: dict[str, Tensor] | None = None) -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            losses = model(**batch, sea=sea)
        loss = losses.lm_loss_sum / losses.num_tokens
        if losses.sea_loss is not None:
            loss = loss + losses.sea_loss
        loss.backward()
        model.zero_grad(set_to_none=True)

    calls = {"plain": step, "sea": lambda: step(sea)}
    rounds, how = 3 if quick else 10, ""
    seconds: dict[str, float] = {}
    with suppress(torch.OutOfMemoryError):  # whose traceback holds the step's activations
        seconds = best_seconds(calls, rounds, device)
    if not seconds:
        # Under gradient checkpointing the step itself is longer; the note says so.
        model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        model.activation_checkpointing_enable({"use_reentrant": False})
        how = ", gradient checkpointing"
        seconds = best_seconds(calls, rounds, device)
    added = seconds["sea"] - seconds["plain"]
    asked = 0.02 if device == "cuda" else None
    where = f"{size.name}, batch {size.batch}, {num_pairs:,} pairs{how}"
    if device == "cpu":
        where += "; small, on a CPU: no bar, on a GPU with --device cuda"
    share, drawn = (added + drawing) / seconds["plain"], drawing / seconds["plain"]
    on_device = f"{added * 1e3:.1f} ms of {seconds['plain'] * 1e3:.0f} ms"
    in_series = f"{drawing * 1e3:.1f} ms a batch on one thread; workers hide it"
    return [
        Row("SEA with drawing / stage-1 step, share", share, asked, note=where),
        Row("  of it on the device, share", added / seconds["plain"], note=on_device),
        Row("  of it drawing in series, share", drawn, note=in_series),
    ]
