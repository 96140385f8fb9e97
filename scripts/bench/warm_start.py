"""A step of the LLM-free warm start against one of stage 1: arithmetic and wall time.

`python scripts/bench/warm_start.py [--quick] [--device cuda]`. Both begin with pixels on the device
and end with the projector's gradient; data and optimizer are left out. Timed are the miniature
world's CLIP and its largest LLM on random images, with --device cuda CLIP-L/336 + a 7B Llama with
random weights; the arithmetic is always of the latter at batch 32.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from common.addition import PAPER, WORD_TOKENS, WORDS, Size, draw, make_store
from common.rows import Row, run_bench
from common.stage1_world import CAPTION_TOKENS, Shape, build, make_batch, wrap
from common.timing import best_seconds

from llava_sea.alignment import AlignmentHead, PatchWords
from llava_sea.model.builder import build_llava
from llava_sea.model.stage1 import Stage1Model

MODELS = Path(__file__).parents[2] / "playground" / "models"


def layer_flop(width: int, inner: int, matrices: int, tokens: int) -> float:
    """Forward pass of a layer: 2 a weight and token, and 4 L d a token for attention (no mask)."""
    return tokens * (2 * (4 * width**2 + matrices * width * inner) + 4 * tokens * width)


def arithmetic() -> list[Row]:
    """FLOP of a step of `PAPER`; a frozen layer's backward pass is as much as its forward."""
    shape, batch, patches = PAPER.shape, PAPER.batch, PAPER.side**2
    narrow, wide, length = shape.tower_hidden, shape.hidden, 1 + patches + CAPTION_TOKENS
    see = layer_flop(narrow, shape.tower_inner, 2, patches + 1) * batch * shape.tower_layers
    # weights' gradients in both layers, the input's in the second alone
    project = batch * patches * 2 * (2 * narrow * wide + 3 * wide**2)
    pairs = batch * patches // 4
    align = 2 * 2 * pairs**2 * wide
    read = layer_flop(wide, shape.inner, 3, length) * shape.layers
    read = 2 * batch * (read + 2 * CAPTION_TOKENS * wide * shape.vocab)
    warm = see + project + align
    sums = (
        f"tower {see / 1e12:.1f} forward, projector {project / 1e12:.1f}, L_a of {pairs:,} pairs "
        f"{align / 1e12:.2f}, in TFLOP"
    )
    whole = f"the same and the LLM forward and back to its input, {read / 1e12:.0f}"
    return [
        Row("arithmetic: warm start, TFLOP a step", warm / 1e12, note=sums),
        Row("arithmetic: stage 1 with SEA, TFLOP a step", (warm + read) / 1e12, note=whole),
        Row("arithmetic: warm start / stage 1", warm / (warm + read), note=PAPER.name),
    ]


def small_model(batch: int) -> tuple[Size, Stage1Model]:
    """The miniature world's encoder and its largest LLM."""
    llava = build_llava(
        str(MODELS / "llm-large"),
        str(MODELS / "clip"),
        dtype=torch.float32,
        attention="sdpa",
        select_layer=-2,
        seed=0,
    )
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    vision, text = llava.config.vision_config, llava.config.text_config
    of_llm, of_tower = ([getattr(part, name) for name in sizes] for part in (text, vision))
    shape = Shape(*of_llm, text.vocab_size, *of_tower, vision.image_size, vision.patch_size)
    size = Size("miniature CLIP + llm-large", shape, batch)
    return size, Stage1Model(llava, AlignmentHead()).train()


def measure(args: argparse.Namespace) -> list[Row]:
    """The arithmetic, then wall time."""
    device = args.device
    if device == "cuda":
        size, model = PAPER, wrap(build(PAPER.shape, device), "paper")
        model.activation_checkpointing_enable({"use_reentrant": False})
    else:
        size, model = small_model(8 if args.quick else 16)
    batch = make_batch(size.shape, size.batch, device, labels=False)
    tokens_QT = torch.randint(3, size.shape.vocab - 1, (WORDS, WORD_TOKENS))
    with tempfile.TemporaryDirectory() as folder:
        drawn = draw(make_store(Path(folder), size), size, tokens_QT)
    sea = {name: value.to(device) for name, value in drawn._asdict().items() if value is not None}

    def warm() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss, _ = model.align(model.project(batch["pixel_values"]), PatchWords(**sea))
        loss.backward()
        model.zero_grad(set_to_none=True)

    def stage1() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            losses = model(**batch, sea=sea)
        assert losses.sea_loss is not None
        (losses.lm_loss_sum / losses.num_tokens + losses.sea_loss).backward()
        model.zero_grad(set_to_none=True)

    found = best_seconds({"warm": warm, "stage 1": stage1}, 3 if args.quick else 10, device)
    checkpointing = ", gradient checkpointing in stage 1" if device == "cuda" else ""
    note = (
        f"{size.name}, batch {size.batch}{checkpointing}: {found['warm'] * 1e3:.0f} ms against "
        f"{found['stage 1'] * 1e3:.0f} ms"
    )
    share = found["warm"] / found["stage 1"]
    return [*arithmetic(), Row("wall time: warm start / stage 1", share, note=note)]


if __name__ == "__main__":
    run_bench("warm_start", __doc__, measure)
