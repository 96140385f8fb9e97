"""The word list through CLIP's text tower: padded to a batch's longest against padded to 77.

`python scripts/bench/text_side.py [--quick] [--device cuda]`. Random weights in the shape of
CLIP-L's text tower (12 layers of 768), with --quick of 4 layers of 512; words of 1 to 4 tokens
beside start and end, drawn with shares as in a list of words and short phrases. Both sides run
`TextEncoder.encode_words` with a tokenizer that only looks up what was drawn, so that the tower is
what is timed; the padded side has its tokens filled up with end tokens beforehand, as CLIP's own
tokenizer does. Embeddings are compared word by word.

SigLIP attends to its padding and keeps it: a row says that its batches stay at full length.

On CUDA, bfloat16: the time of 200,000 words, times 20 for 4M (extrapolated, the note says so).
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from common.rows import Row, run_bench
from common.timing import best_seconds

from llava_sea.labels.text_features import TextEncoder

START, END, CONTEXT = 49_406, 49_407, 77
LENGTHS, SHARES = (1, 2, 3, 4), (0.15, 0.45, 0.3, 0.1)
"""Tokens of an entry beside start and end: mostly phrases of two words."""


class DrawnTokens:
    """Stands for a tokenizer: the text is a number, its tokens were drawn."""

    model_max_length = CONTEXT

    def __init__(self, rows: list[list[int]]) -> None:
        self.rows = rows

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        """Look the tokens up."""
        return {"input_ids": [self.rows[int(text)] for text in texts]}


class PaddedEncoder(TextEncoder):
    """The slow way: every batch at the full context."""

    def _encode(self, tokens: list[list[int]]) -> torch.Tensor:
        return super()._encode([ids + [END] * (CONTEXT - len(ids)) for ids in tokens])


def draw_tokens(count: int) -> list[list[int]]:
    """Draw the tokens of `count` entries."""
    rng = random.Random(0)
    lengths = rng.choices(LENGTHS, SHARES, k=count)
    return [[START, *(rng.randrange(START) for _ in range(n)), END] for n in lengths]


def make_clip(quick: bool) -> Any:
    """Build a CLIP with a text tower of the wanted shape and almost no vision tower."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    layers, width = (4, 512) if quick else (12, 768)
    text = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        vocab_size=END + 1,
        max_position_embeddings=CONTEXT,
        bos_token_id=START,
        eos_token_id=END,
    )
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1
    )
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=width)
    return CLIPModel(config).eval()


def siglip_length() -> int:
    """Return the length at which a batch of one-token words reaches SigLIP's text tower."""
    from transformers import SiglipConfig, SiglipModel, SiglipTextConfig, SiglipVisionConfig

    tower = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1)
    text = SiglipTextConfig(
        **tower, vocab_size=10, max_position_embeddings=64, bos_token_id=1, eos_token_id=2
    )
    model = SiglipModel(
        SiglipConfig(text_config=text, vision_config=SiglipVisionConfig(**tower))
    ).eval()

    class Tokenizer(DrawnTokens):
        def pad(self, tokens: dict[str, Any], *, max_length: int, **_: Any) -> dict[str, Any]:
            rows = [row + [1] * (max_length - len(row)) for row in tokens["input_ids"]]
            return {"input_ids": torch.tensor(rows)}

    lengths: list[int] = []
    original = model.get_text_features

    def spy(input_ids: torch.Tensor) -> Any:
        lengths.append(input_ids.shape[1])
        return original(input_ids=input_ids)

    model.get_text_features = spy
    TextEncoder(model, Tokenizer([[3, 1], [4, 1]])).encode_words(["0", "1"])
    return lengths[0]


def measure(args: argparse.Namespace) -> list[Row]:
    """Time both sides on the same words and compare what they give."""
    cuda = args.device == "cuda"
    model = make_clip(args.quick)
    rows = [
        Row(
            "SigLIP: tokens of a batch of one-token words",
            float(siglip_length()),
            64,
            ">=",
            "its context: it attends its pads",
        )
    ]
    count = 256 if args.quick else 512
    tokens = draw_tokens(max(count, 200_000 if cuda else 0))
    words = [str(number) for number in range(len(tokens))]
    trimmed, padded = (kind(model, DrawnTokens(tokens)) for kind in (TextEncoder, PaddedEncoder))
    model.to(args.device)
    gap = np.abs(
        trimmed.encode_words(words[:count]).features_QD
        - padded.encode_words(words[:count]).features_QD
    ).max()
    if cuda:
        model.to(torch.bfloat16)
        count = 20_480
    seconds = best_seconds(
        {
            "trimmed": lambda: trimmed.encode_words(words[:count]),
            "padded": lambda: padded.encode_words(words[:count]),
        },
        2 if args.quick else 3,
        args.device,
    )
    shape = "4 layers of 512" if args.quick else "12 layers of 768"
    ratio = seconds["padded"] / seconds["trimmed"]
    rows += [
        Row("padded to 77 / trimmed, x", ratio, 5, ">=", f"{count} entries, {shape}"),
        Row("largest difference of an embedding", float(gap), 1e-5, note="float32, rows of norm 1"),
        Row("trimmed, entries/s", count / seconds["trimmed"], note=shape),
    ]
    if cuda:
        whole = best_seconds({"trimmed": lambda: trimmed.encode_words(words)}, 1, "cuda")
        note = f"{len(words):,} entries measured in bfloat16, times {4e6 / len(words):g}"
        rows.append(
            Row("4M entries, minutes", whole["trimmed"] * 4e6 / len(words) / 60, 5, note=note)
        )
    return rows


if __name__ == "__main__":
    run_bench("text_side", __doc__, measure)
