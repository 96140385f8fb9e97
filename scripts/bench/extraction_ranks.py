"""Labels by several ranks: `python scripts/bench/extraction_ranks.py [--quick] [--images 12000]`.

A random CLIP, images of noise and a list of 5,000 words, on two cores. First the command as one
process (of one thread and of two: the faster one counts) and as four ranks (of one thread each),
from start to end, so that imports count; then
two nodes of two ranks each, of which 20 are killed (-9) at random and begin again. Every file of
the store must be the one that one process makes. The nodes are on this machine: they take each
other for machines whose processes they can't see, and for dead after 3 s instead of 60.

Limits: wall times need a quiet machine, and four ranks get more of a busy one; CPU times are given
beside them. Ranks of the second part are forked after the imports, so that kills hit their work.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common.rows import Row, bench_parser, read_flags, report
from PIL import Image

RANKS, KILLS, NUM_WORDS, SIDE = 4, 20, 5_000, 112


def make_world(folder: Path, num_images: int) -> list[str]:
    """Write model, images, data and word list; return the command's flags, all but --output_dir."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        CLIPConfig,
        CLIPImageProcessorPil,
        CLIPModel,
        CLIPTextConfig,
        CLIPVisionConfig,
        PreTrainedTokenizerFast,
    )

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in range(NUM_WORDS)]
    shape = dict(hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4)
    text = CLIPTextConfig(
        **shape, vocab_size=NUM_WORDS + 4, max_position_embeddings=16, eos_token_id=3
    )
    vision = CLIPVisionConfig(**shape, image_size=SIDE, patch_size=14)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=64)
    CLIPModel(config).save_pretrained(folder / "clip")
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<bos>", "<unk>", "<eos>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", model_max_length=16
    ).save_pretrained(folder / "clip")
    CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    ).save_pretrained(folder / "clip")
    (folder / "images").mkdir()
    records = []
    for number in range(num_images):
        pixels = rng.integers(0, 255, (150, 200, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.jpg", quality=80)
        caption = " ".join(words[i] for i in rng.integers(0, NUM_WORDS, 8))
        turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": caption}]
        records.append({"id": str(number), "image": f"{number}.jpg", "conversations": turns})
    (folder / "data.json").write_text(json.dumps(records))
    (folder / "words.tsv").write_text(
        "word\tcount\tpos\n"
        + "".join(f"{word}\t{NUM_WORDS - i}\tNN\n" for i, word in enumerate(words))
    )
    return [
        *("--data_path", str(folder / "data.json"), "--image_folder", str(folder / "images")),
        *("--vision_tower", str(folder / "clip"), "--words", str(folder / "words.tsv")),
        *("--sea_sign", "+1", "--shard_size", "32", "--device", "cpu"),
    ]


def place(rank: int, count: int) -> dict[str, str]:
    """The environment of a launcher."""
    if count == 1:
        return {}
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return dict(zip(names, map(str, (count, rank, rank, count)), strict=True))


def run(flags: Sequence[str], output: Path, count: int, threads: int) -> tuple[float, float]:
    """Run the command as `count` ranks of so many threads; return wall and CPU seconds."""
    command = [sys.executable, "-m", "llava_sea.labels.extract", *flags, "--output_dir", output]
    plain = {k: v for k, v in os.environ.items() if k not in place(0, 2)}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ranks = [
        subprocess.Popen(
            command,
            env=plain | {"OMP_NUM_THREADS": str(threads)} | place(rank, count),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    said = [rank.communicate()[1] for rank in ranks]
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if any(rank.returncode for rank in ranks):
        raise RuntimeError("\n".join(said))
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def be_rank(arguments: list[str], rank: int) -> None:
    """Be a rank on one of two nodes: the work of a forked process."""
    from llava_sea.labels import claims
    from llava_sea.labels.extract import extract_labels
    from llava_sea.labels.options import parse_options
    from llava_sea.processes import Processes

    os.environ |= place(rank, RANKS)
    name = f"node {rank // 2}"
    claims.host_name = lambda: name  # type: ignore[attr-defined]
    claims.SILENCE_S = 3.0
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
    extract_labels(parse_options(arguments), Processes.here())


def kill_at_random(flags: Sequence[str], output: Path, every: float) -> tuple[int, int]:
    """Label with ranks that are killed; return how many were, and how many of them held a claim."""
    import torch

    import llava_sea.labels.prepare  # noqa: F401  forked ranks have it

    torch.set_num_threads(1)
    fork, rng = multiprocessing.get_context("fork"), random.Random(0)
    arguments = [*flags, "--output_dir", str(output)]

    def start(rank: int) -> multiprocessing.process.BaseProcess:
        process = fork.Process(target=be_rank, args=(arguments, rank))
        process.start()
        return process

    ranks = [start(rank) for rank in range(RANKS)]
    killed = holding = 0
    while killed < KILLS:
        time.sleep(rng.uniform(0, 2 * every))
        number = rng.randrange(RANKS)
        victim = ranks[number]
        os.kill(victim.pid or 0, signal.SIGSTOP)  # so that what it holds stays as it is
        held = [path.read_text() for path in (output / "work" / "claims").glob("*")]
        victim.kill()
        victim.join()
        if victim.exitcode == 0:
            break  # all is done
        killed += 1
        holding += any(mark.endswith(f" {victim.pid}") for mark in held)
        ranks[number] = start(number)
    for rank in ranks:
        rank.join()
    if any(rank.exitcode for rank in ranks if rank.exitcode != -signal.SIGKILL):
        raise RuntimeError(f"ranks ended with {[rank.exitcode for rank in ranks]}")
    return killed, holding


def differing(one: Path, other: Path) -> list[str]:
    """The files that are not the same in two folders."""
    names = {path.name for folder in (one, other) for path in folder.iterdir()}
    return sorted(
        name
        for name in names
        if not (one / name).is_file()
        or not (other / name).is_file()
        or (one / name).read_bytes() != (other / name).read_bytes()
    )


def measure(args: argparse.Namespace, folder: Path) -> list[Row]:
    """Return the rows of both parts."""
    count = args.images or (400 if args.quick else 12_000)
    print(f"writing {count:,} images", file=sys.stderr)
    flags = make_world(folder, count)
    shapes = {(1, 1): folder / "one", (1, 2): folder / "threads", (RANKS, 1): folder / "four"}
    took = {shape: run(flags, output, *shape) for shape, output in shapes.items()}
    walls = [seconds for seconds, _ in took.values()]
    note = "{:,} images; {:.0f} s with a thread, {:.0f} s with two, {:.0f} s".format(count, *walls)
    cpu = took[RANKS, 1][1] / took[1, 1][1]
    unlike = {name for path in shapes.values() for name in differing(folder / "one", path)}
    rows = [
        Row(
            "4 ranks / 1 process on two cores: wall time, x",
            walls[2] / min(walls[:2]),
            1.1,
            note=note,
        ),
        Row("4 ranks / 1 process of a thread: CPU time, x", cpu, note="imports included"),
        Row("files that differ", len(unlike), 0, note=", ".join(sorted(unlike))),
    ]
    every = args.every or (0.5 if args.quick else 1.0)
    killed, holding = kill_at_random(flags, folder / "killed", every)
    lost = differing(folder / "one", folder / "killed")
    note = f"{holding} of them held a claim; two nodes of two ranks each"
    return [
        *rows,
        Row("ranks that were killed", killed, KILLS, ">=", note),
        Row("files that differ after the kills", len(lost), 0, note=", ".join(lost)),
    ]


def main() -> None:
    """Write a world, measure, report."""
    parser = bench_parser(__doc__)
    parser.add_argument("--images", type=int, help="default: 12,000; --quick: 400")
    parser.add_argument("--every", type=float, help="mean seconds between two kills")
    args = read_flags(parser, "extraction_ranks", cuda=False)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    with tempfile.TemporaryDirectory() as folder:
        report("extraction_ranks", args, measure(args, Path(folder)))


if __name__ == "__main__":
    main()
