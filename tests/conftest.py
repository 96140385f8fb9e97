"""A tiny offline world: random CLIP, SigLIP and Llama of the real classes, images, labels.

Everything is made once a session; tests copy what they change. `tests/worlds.py` has the builders.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import resource
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pytest
import torch
from hypothesis import settings
from transformers import AutoModel, AutoTokenizer

from llava_sea.alignment import finalize_store, write_shard
from llava_sea.data.images import ImageTransform
from llava_sea.labels.patch_features import vision_fingerprint
from tests import worlds

REPO = Path(__file__).parent.parent

# How long an example takes depends on what else the machine does.
settings.register_profile("llava_sea", deadline=None)
settings.load_profile("llava_sea")

# oneDNN keeps its kernels with the number of threads they were made for, and a forked rank has
# none of OpenMP's threads: a kernel made here with two would wait for them for ever.
torch.set_num_threads(1)

COLOURS = ["red", "green", "blue", "black"]
THINGS = ["ball", "box", "kite", "house", "tree"]


@pytest.fixture(autouse=True)
def no_engine_left_over() -> Iterator[None]:
    """Forget a DeepSpeed configuration that a test has parsed: under ZeRO-3's, models partition."""
    yield
    integration = sys.modules.get("transformers.integrations.deepspeed")
    if integration is not None:
        integration.unset_hf_deepspeed_config()


@pytest.fixture
def file_limit() -> Callable[[int], None]:
    """Set the largest size of a file, as ulimit -f does, until the test ends."""
    return lambda size: resource.setrlimit(
        resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Take a test's limit back before pytest reports: its own output may be a larger file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        return (yield)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture(scope="session")
def repo() -> Path:
    """The checkout."""
    return REPO


@pytest.fixture
def fork(tmp_path: Path) -> Callable[..., list[SimpleNamespace]]:
    """Run `main(*args)` as ranks forked from this process, which has imported everything.

    Returns each rank's `process` and its `log`, a file. Ends them all with `wait`, by default.
    """
    context = multiprocessing.get_context("fork")
    started: list[SimpleNamespace] = []

    def start(main: Callable, *args: object, count: int = 2, wait: bool = True):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        ranks = []
        for rank in range(count):
            log = tmp_path / f"rank {len(started)}.log"
            task = (lambda: main(*args), rank, count, port, log)
            ranks.append(
                SimpleNamespace(process=context.Process(target=worlds.run_rank, args=task), log=log)
            )
            started.append(ranks[-1])
        for one in ranks:
            one.process.start()
        deadline = time.monotonic() + 400
        for one in ranks if wait else ():
            one.process.join(max(0.0, deadline - time.monotonic()))
        return ranks

    yield start
    for one in started:
        one.process.kill()
        one.process.join()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Callable[..., list[SimpleNamespace]]]:
    """Start a command on two nodes, a rank on each, under DeepSpeed's launcher on this machine.

    Returns each node's `process` and its `log`, a file.
    """
    hosts = tmp_path / "hostfile"
    hosts.write_text("first slots=1\nsecond slots=1\n")
    started: list[SimpleNamespace] = []

    def start(*command: object):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        launch = [sys.executable, "-m", "llava_sea.train.launch", "--hostfile", hosts, "--no_ssh"]
        launch += ["--master_addr", "127.0.0.1", "--master_port", port, "--node_rank"]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        env = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PATH": path}
        for number in range(2):
            log = tmp_path / f"node {len(started)}.log"
            with open(log, "w") as file:
                process = subprocess.Popen(
                    [str(word) for word in (*launch, number, *command)],
                    env=os.environ | env,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            started.append(SimpleNamespace(process=process, log=log))
        return started[-2:]

    yield start
    for node in started:
        worlds.kill_tree(node.process.pid)
        node.process.wait()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Folders ``clip``, ``siglip``, ``llm``, ``images``, files ``pretrain.json``, ``words.tsv``."""
    root = tmp_path_factory.mktemp("tiny world")  # a space in the path, as users have
    rng = np.random.default_rng(0)
    words = [f"{c} {t}" for c in COLOURS for t in THINGS] + COLOURS + THINGS
    records, captions = [], []
    for number in range(24):
        drawn = [str(rng.choice(options)) for options in (COLOURS, THINGS, COLOURS, THINGS)]
        captions.append("a {} {} beside a {} {}".format(*drawn))
        name = f"{number:03d}.{'png' if number % 2 else 'jpg'}"
        worlds.save_images(root / "images", [name], (30, 40), rng)
        texts = "Describe it.\n<image>", captions[-1]
        records.append(worlds.record(f"rec-{number}", name, *texts))
    (root / "pretrain.json").write_text(json.dumps(records))
    (root / "heldout.json").write_text(json.dumps(records[:5]))
    lines = ["word\tcount\tpos"] + [f"{word}\t{99 - n}\tNN" for n, word in enumerate(words)]
    (root / "words.tsv").write_text("\n".join(lines) + "\n")
    model = worlds.sentencepiece_model(captions * 3)
    worlds.save_llama_tokenizer(root / "llm", model, legacy=False)
    AutoTokenizer.from_pretrained(root / "llm").save_pretrained(root / "llm")
    worlds.save_llm(root / "llm", 360, seed=1, max_position_embeddings=256)
    return SimpleNamespace(
        root=root,
        clip=worlds.save_clip(root / "clip"),
        siglip=worlds.save_siglip(root / "siglip"),
        llm=root / "llm",
        images=root / "images",
        data=root / "pretrain.json",
        heldout=root / "heldout.json",
        words=root / "words.tsv",
        records=records,
        word_list=words,
    )


@pytest.fixture(scope="session")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small DINOv2 with its image processor."""
    return worlds.save_dinov2(tmp_path_factory.mktemp("dinov2"))


@pytest.fixture(scope="session")
def grown_llm(tiny: SimpleNamespace) -> Path:
    """An LLM whose tokenizer has a ``[PAD]`` and an ``<extra>`` that its embedding table lacks."""
    tokenizer = AutoTokenizer.from_pretrained(tiny.llm)
    folder = worlds.save_llm(tiny.root / "grown llm", len(tokenizer))
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(folder)
    return folder


def make_store(tiny: SimpleNamespace, tower: str, folder: Path, top_n: int = 3) -> Path:
    """Write a label store with random labels that fits `tower`."""
    folder.mkdir(parents=True)
    path = getattr(tiny, tower)
    vision = AutoModel.from_pretrained(path).vision_model
    patch_weight = next(m for m in vision.modules() if isinstance(m, torch.nn.Conv2d)).weight
    rng = np.random.default_rng(3)
    names = [record["image"] for record in tiny.records]
    shape = (len(names), 16, top_n)
    crc = np.array([zlib.crc32((tiny.images / name).read_bytes()) for name in names])
    write_shard(
        folder, 0, names, rng.integers(0, len(tiny.word_list), shape), rng.random(shape) - 0.2, crc
    )
    words = tiny.words.read_bytes()
    (folder / "words.tsv").write_bytes(words)
    fields = {
        "words_sha256": hashlib.sha256(words).hexdigest(),
        "encoder": str(path),
        "encoder_fingerprint": vision_fingerprint(patch_weight, vision.config),
        "features": "value",
        "sign": 1,
        "top_n": top_n,
        "grid": [4, 4],
        "geometry": ImageTransform.from_pretrained(str(path), "square").geometry(),
    }
    finalize_store(folder, fields, 1)
    return folder


@pytest.fixture(scope="session")
def tiny_labels(tiny: SimpleNamespace) -> Path:
    """A finished label store for the tiny CLIP."""
    return make_store(tiny, "clip", tiny.root / "labels clip")


@pytest.fixture(scope="session")
def tiny_siglip_labels(tiny: SimpleNamespace) -> Path:
    """A finished label store for the tiny SigLIP."""
    return make_store(tiny, "siglip", tiny.root / "labels siglip")


@pytest.fixture(scope="session")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature eight benchmarks."""
    from playground.benchmarks.build import build

    folder = tmp_path_factory.mktemp("benchmarks") / "eval"
    build(folder)
    return folder


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what is made of data files out of the user's cache."""
    os.environ["LLAVA_SEA_CACHE"] = str(tmp_path_factory.mktemp("cache"))
