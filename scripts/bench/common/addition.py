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
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from common.rows import Row
from common.timing import best_seconds
from llava_sea.alignment import (
    AlignmentHead,
    LabelStore,
    PatchWords,
    finalize_store,
    keep_one_per_label,
    sample_pairs,
    write_shard,
)
from llava_sea.model.stage1 import Stage1Model

TOP, WORDS, WORD_TOKENS, CAPTION = 10, 20_000, 4, 32


@dataclass(frozen=True)
class Size:
    """A model and a batch."""

    name: str
    tower: dict[str, Any]
    llm: dict[str, Any]
    batch: int

    @property
    def side(self) -> int:
        """Patches along a side."""
        return int(self.tower["image_size"] // self.tower["patch_size"])


_CLIP_L: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
_LLAMA_7B: dict[str, Any] = {
    "vocab_size": 32_064,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
PAPER = Size("CLIP-L/336 + 7B Llama", _CLIP_L, _LLAMA_7B, 32)
SMALL = Size(
    "CLIP of 3 layers + Llama of 2, width 256",
    _CLIP_L
    | {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3}
    | {"num_attention_heads": 4, "image_size": 168},
    {
        "vocab_size": 2048,
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
    4,
)


def build_model(size: Size, device: str, dtype: torch.dtype) -> Stage1Model:
    """Build stage 1's model with random weights on the device, what is trained in float32."""
    tower, llm = CLIPVisionConfig(**size.tower), LlamaConfig(**size.llm)
    config = LlavaConfig(
        vision_config=tower,
        text_config=llm,
        image_token_index=size.llm["vocab_size"] - 1,
        image_seq_length=size.side**2,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            llava = LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    model = Stage1Model(llava, AlignmentHead().to(device))
    model.trainable_to_float32()
    return model.train()


def make_store(folder: Path, size: Size) -> LabelStore:
    """Write random labels for a batch's pictures as a store."""
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
    weight_N1 = kept_N[:, None].float()
    return PatchWords(label_N[:, None], weight_N1, word_U, tokens_QT[word_U], patch_N, key_N)


def make_batch(size: Size, device: str) -> dict[str, Tensor]:
    """Random pictures, each followed by a caption, as the collator would give them."""
    torch.manual_seed(1)
    patches, vocabulary = size.side**2, size.llm["vocab_size"]
    shape = (size.batch, 1 + patches + CAPTION)
    image_mask = torch.zeros(shape, dtype=torch.bool)
    image_mask[:, 1 : 1 + patches] = True
    input_ids = torch.randint(3, vocabulary - 1, shape)
    labels = input_ids.clone()
    labels[:, : 1 + patches] = -100
    pixels = torch.randn(size.batch, 3, size.tower["image_size"], size.tower["image_size"])
    batch = {"input_ids": input_ids, "labels": labels, "image_mask": image_mask}
    batch |= {"attention_mask": torch.ones(shape, dtype=torch.long), "pixel_values": pixels}
    return {name: value.to(device) for name, value in batch.items()}


def addition_rows(device: str, quick: bool) -> list[Row]:
    """Return SEA's share of a step; the bar is asked of a GPU alone."""
    size = PAPER if device == "cuda" else SMALL
    model = build_model(size, device, torch.bfloat16 if device == "cuda" else torch.float32)
    batch = make_batch(size, device)
    tokens_QT = torch.randint(3, size.llm["vocab_size"] - 1, (WORDS, WORD_TOKENS))
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
