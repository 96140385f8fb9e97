"""What SEA costs a data worker: `python scripts/bench/data_workers.py [--quick]`.

A sample of stage 1 (`LazySupervisedDataset.__getitem__`: file read, JPEG decoded, CLIP's transform
at 336 pixels, caption tokenised) with and without labels, in turns: labels read from the mapped
store (576 patches, 10 words each, a list of 4M words), the image's CRC compared, windowed and
drawn. Also with labels of another grid (DINOv2's 16 x 16, table 5). Limits: the label files are in
the page cache (`label_store.py` has them cold); images are smooth noise of a photograph's size.
"""

from __future__ import annotations

import argparse
import tempfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from common.rows import Row, run_bench
from common.timing import best_seconds
from PIL import Image

WIDTH, HEIGHT = 500, 400
GRID, OTHER_GRID, TOP_N, NUM_WORDS = (24, 24), (16, 16), 10, 4_000_000
BAR = 1.05
LLM = Path(__file__).parents[2] / "playground/models/llm-small"


def photograph(rng: np.random.Generator) -> bytes:
    """A JPEG of about a photograph's bytes: noise at several scales."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for cell, strength in ((80, 60), (20, 25), (5, 12), (1, 5)):
        small = rng.normal(0, 1, (HEIGHT // cell, WIDTH // cell, 3)).astype(np.float32)
        for channel in range(3):
            image = Image.fromarray(small[..., channel])
            grown = image.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
            pixels[..., channel] += strength * np.asarray(grown)
    file = BytesIO()
    Image.fromarray(np.clip(pixels + 128, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()


def write_world(folder: Path, num_images: int) -> list[bytes]:
    """Images below ``folder/images``, a finished label store in ``folder/labels``."""
    from llava_sea.alignment import finalize_store, write_shard

    rng = np.random.default_rng(0)
    files = [photograph(rng) for _ in range(num_images)]
    (folder / "images").mkdir()
    for number, data in enumerate(files):
        (folder / "images" / f"{number}.jpg").write_bytes(data)
    shape = (num_images, GRID[0] * GRID[1], TOP_N)
    scores = np.sort(rng.uniform(-0.05, 0.25, shape))[..., ::-1]
    names = [f"{number}.jpg" for number in range(num_images)]
    crc = np.array([zlib.crc32(data) for data in files])
    (folder / "labels").mkdir()
    write_shard(folder / "labels", 0, names, rng.integers(0, NUM_WORDS, shape), scores, crc)
    fields = {"grid": list(GRID), "top_n": TOP_N, "num_words": NUM_WORDS}
    finalize_store(folder / "labels", fields, 1)
    return files


def data_sets(folder: Path, num_images: int) -> dict[str, Any]:
    """Return the data set without labels, with them, and resampled."""
    from transformers.models.clip import CLIPImageProcessorPil

    from llava_sea.alignment import LabelStore
    from llava_sea.conversation import get_template
    from llava_sea.data.dataset import LazySupervisedDataset
    from llava_sea.data.images import ImageTransform
    from llava_sea.data.records import Record, Turn
    from llava_sea.model.builder import load_tokenizer

    def transform(pixels: int) -> ImageTransform:
        side = {"height": pixels, "width": pixels}
        processor = CLIPImageProcessorPil(size={"shortest_edge": pixels}, crop_size=side)
        return ImageTransform(processor, "square")

    caption = "a wooden table with a red bowl of apples next to the window of an old kitchen"
    turns = (Turn("human", "<image>\nDescribe it."), Turn("gpt", caption))
    records = [Record(n, str(n), f"{n}.jpg", turns) for n in range(num_images)]
    store = LabelStore(folder / "labels")

    def make(size: tuple[int, int], **options: Any) -> LazySupervisedDataset:
        return LazySupervisedDataset(
            records,
            str(folder / "images"),
            transform(14 * size[0]),
            get_template("plain"),
            load_tokenizer(str(LLM), model_max_length=2048),
            image_tokens=size[0] * size[1],
            model_max_length=2048,
            **options,
        )

    return {
        "without": make(GRID),
        "with": make(GRID, label_store=store),
        "resampled": make(OTHER_GRID, label_store=store, grid=OTHER_GRID),
        "without, 16 x 16": make(OTHER_GRID),
    }


def measure(args: argparse.Namespace) -> list[Row]:
    """Time one pass over the images, each data set in turn."""
    num_images, rounds = (8, 8) if args.quick else (16, 40)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_world(folder, num_images)
        sets = data_sets(folder, num_images)

        def one_pass(data: Any) -> Callable[[], object]:
            return lambda: [data[(index, 3)] for index in range(num_images)]

        def pairs(data: Any) -> Callable[[], object]:
            crcs = [zlib.crc32(file) for file in files]
            return lambda: [data._pairs(r, 3, c) for r, c in zip(data.records, crcs, strict=True)]

        labelled = {name: data for name, data in sets.items() if data.label_store is not None}
        alone = best_seconds({name: pairs(data) for name, data in labelled.items()}, rounds)
        best = best_seconds({name: one_pass(data) for name, data in sets.items()}, rounds)
    sample = best["without"] / num_images
    size = sum(map(len, files)) / num_images / 1e3
    note = f"{WIDTH} x {HEIGHT} JPEG of {size:.0f} kB, 336 px; {sample * 1e3:.2f} ms"
    rows = [
        Row("sample with labels / without, x", best["with"] / best["without"], BAR, note=note),
        Row(
            "  the labels alone / sample without, x",
            alone["with"] / best["without"],
            BAR - 1,
            note="timed by themselves; without the noise of two large times",
        ),
        Row(
            "  labels of 24 x 24 on a 16 x 16 grid / sample without, x",
            alone["resampled"] / best["without, 16 x 16"],
            BAR - 1,
            note="cross-encoder transfer (table 5), resampled by overlap",
        ),
        Row("labels of an image, ms", alone["with"] / num_images * 1e3),
    ]
    return rows


if __name__ == "__main__":
    run_bench("data_workers", __doc__, measure, cuda=False)
