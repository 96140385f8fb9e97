"""Small random models of the real classes, with tokenizers, images and records, as users have them.

Sizes and seeds are arguments, so that a test that depends on one names it.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import sentencepiece
import torch
from PIL import Image
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip import CLIPImageProcessorPil
from transformers.models.siglip import SiglipImageProcessorPil

from llava_sea.conversation import get_template
from llava_sea.data.images import ImageTransform
from llava_sea.data.records import Record, Turn
from llava_sea.errors import run_command
from llava_sea.model.builder import build_llava, load_tokenizer
from llava_sea.model.write import write_llava

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
TOWER = SHAPE | {"num_hidden_layers": 3, "patch_size": 6}


# --- tokenizers -----------------------------------------------------------------------------------


def sentencepiece_model(lines: Iterable[str], vocab_size: int = 340, **changes: Any) -> bytes:
    """Train a model as Llama's was: BPE, bytes for what is unknown, no normalisation."""
    options = {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
    }
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=written,
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        minloglevel=2,
        **options | changes,
    )
    return written.getvalue()


def save_llama_tokenizer(folder: Path, model: bytes, *, legacy: bool, **changes: Any) -> None:
    """Write a tokenizer folder as Llama's and Vicuna's are; `changes` are of its settings."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model)
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": legacy,
        "add_bos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | changes))


def byte_level(
    corpus: Iterable[str],
    special: Sequence[str],
    bos: str | None = None,
    pattern: str = "",
    **options: Any,
) -> PreTrainedTokenizerFast:
    """Train byte-level BPE, GPT-2's kind; with `bos` it begins each text by itself.

    `pattern` splits a text as Llama 3's and Qwen's do.
    """
    tokenizer = Tokenizer(models.BPE())
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not pattern)
    split = [pre_tokenizers.Split(Regex(pattern), "isolated")] if pattern else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, **options)


def byte_level_tokenizer(
    corpus: Iterable[str], special: list[str], eos: str, bos: str | None = None, pattern: str = ""
) -> PreTrainedTokenizerFast:
    """Train Llama 3's and Qwen's kind."""
    more = {"eos_token": eos, "extra_special_tokens": special}
    return byte_level(corpus, special, bos, pattern, **more)


# --- models ---------------------------------------------------------------------------------------


def save_llm(folder: Path, rows: int, *, seed: int = 5, **changes: Any) -> Path:
    """Write a random Llama whose embedding table has `rows`; `changes` are of its config."""
    torch.manual_seed(seed)
    config = SHAPE | {"num_hidden_layers": 2, "max_position_embeddings": 1024} | changes
    LlamaForCausalLM(LlamaConfig(vocab_size=rows, **config)).save_pretrained(folder)
    return folder


FAR_APART = {"initializer_range": 0.3}
"""Of a config: logits far apart, so that greedy texts do not hang on rounding."""


def save_clip(folder: Path, image_size: int = 24, seed: int = 2) -> Path:
    """Write a random CLIP with its image processor, without a tokenizer."""
    torch.manual_seed(seed)
    text = SHAPE | {"num_hidden_layers": 2, "vocab_size": 64, "max_position_embeddings": 16}
    config = CLIPConfig(
        vision_config=TOWER | {"image_size": image_size, "projection_dim": 16},
        text_config=text | {"bos_token_id": 0, "eos_token_id": 1, "projection_dim": 16},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    clip_processor(image_size).save_pretrained(folder)
    return folder


def clip_processor(side: int) -> CLIPImageProcessorPil:
    """CLIP's resize and centre crop, to squares of this side."""
    crop = {"height": side, "width": side}
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=crop)


def save_siglip(folder: Path, image_size: int = 24, seed: int = 3) -> Path:
    """Write a random SigLIP with its image processor, without a tokenizer."""
    torch.manual_seed(seed)
    text = SHAPE | {"num_hidden_layers": 2, "vocab_size": 64, "max_position_embeddings": 16}
    config = SiglipConfig(vision_config=TOWER | {"image_size": image_size}, text_config=text)
    SiglipModel(config).save_pretrained(folder)
    size = {"height": image_size, "width": image_size}
    SiglipImageProcessorPil(size=size).save_pretrained(folder)
    return folder


def save_dinov2(folder: Path, image_size: int = 24, cut_off: int = 4, seed: int = 6) -> Path:
    """Write a random DINOv2 with its image processor, which cuts pixels off as the hub's do."""
    torch.manual_seed(seed)
    options = TOWER | {"image_size": image_size}
    options["mlp_ratio"] = options.pop("intermediate_size") // 32
    Dinov2Model(Dinov2Config(**options)).save_pretrained(folder)
    BitImageProcessorPil(
        size={"shortest_edge": image_size + cut_off},
        crop_size={"height": image_size, "width": image_size},
    ).save_pretrained(folder)
    return folder


def llava_parts(
    llm: Path, tower: Path, aspect_ratio: str = "pad", version: str = "v1", max_length: int = 900
) -> SimpleNamespace:
    """Return a stock Llava of a written LLM and tower, and what reads its records."""
    return SimpleNamespace(
        model=build_llava(str(llm), str(tower)).eval(),
        tokenizer=load_tokenizer(str(llm), model_max_length=max_length),
        transform=ImageTransform.from_pretrained(str(tower), aspect_ratio),
        template=get_template(version),
        llm=llm,
        tower=str(tower),
    )


def save_llava(folder: Path, parts: SimpleNamespace) -> Path:
    """Write the model of `llava_parts` as training does."""
    extra = {"conversation_template": parts.template.name, "mm_vision_tower": parts.tower}
    write_llava(
        folder, parts.model, parts.tokenizer, parts.transform, parts.template, extra_config=extra
    )
    return folder


def talker(
    root: Path, tiny: SimpleNamespace, max_length: int = 900, **changes: Any
) -> SimpleNamespace:
    """Return a model that answers at length, its parts, and its checkpoint's `folder` in `root`."""
    tokenizer = AutoTokenizer.from_pretrained(tiny.llm)
    tokenizer.save_pretrained(root / "llm")
    llm = save_llm(root / "llm", len(tokenizer), **FAR_APART, **changes)
    parts = llava_parts(llm, tiny.clip, max_length=max_length)
    parts.folder = save_llava(root / "tiny-llava", parts)
    return parts


# --- images and records ---------------------------------------------------------------------------


def save_images(
    folder: Path, names: Sequence[str], shape: tuple[int, int], rng: np.random.Generator
) -> None:
    """Write images of noise, `shape` high and wide."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        pixels = rng.integers(0, 255, (*shape, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)


def turns(*texts: str) -> list[dict[str, str]]:
    """Write a conversation; the first text is a person's, the next an answer, and so on."""
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


def record(record_id: object, image: object, *texts: str, **more: object) -> dict[str, Any]:
    """Write a record of LLaVA's; `image` None leaves the key out."""
    named = {} if image is None else {"image": image}
    return {"id": record_id, **named, "conversations": turns(*texts), **more}


def parsed(*texts: str, image: str | None = None, index: int = 0, **more: Any) -> Record:
    """Return a record as it is read from a file; its turns take turns."""
    said = tuple(Turn(("human", "gpt")[n % 2], text) for n, text in enumerate(texts))
    return Record(index, f"r{index}", image, said, **more)


def command_line(flags: dict[str, object]) -> list[str]:
    """Write flags as a command line has them; None leaves one out, a list gives several values."""
    return [
        token
        for name, value in flags.items()
        if value is not None
        for token in (f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)]))
    ]


# --- processes ------------------------------------------------------------------------------------


def kill_tree(pid: int) -> None:
    """Kill a process and all below it at once, as a node that loses its power."""
    with contextlib.suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        for process in [top, *top.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def run_rank(main: Callable[[], object], rank: int, count: int, port: int, log: Path) -> None:
    """Be one of a run's ranks: the whole work of a forked process."""
    atexit._clear()  # what the parent registered is the parent's to do
    os.environ |= {"WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    stream = log.open("w", buffering=1)
    for number in (1, 2):
        os.dup2(stream.fileno(), number)
    sys.stdout = sys.stderr = stream
    run_command(main)


# --- runs of training -----------------------------------------------------------------------------


def read_metrics(folder: Path) -> dict[int, dict[str, float]]:
    """Read metrics.jsonl as {step: {name: value}}, training and held-out values together."""
    steps: dict[int, dict[str, float]] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        steps.setdefault(row["step"], {}).update(row)
    return steps


def curve(folder: Path) -> dict[int, list[float]]:
    """Return what a run logged of each step, but for times."""
    names = ("loss", "lm_loss", "sea_loss", "temperature", "sea_pairs", "grad_norm")
    names = (*names, "learning_rate")
    return {
        step: [row[name] for name in names if name in row]
        for step, row in read_metrics(folder).items()
        if "loss" in row
    }


def interrupt(folder: Path, step: int = 3, *, log: bool = True) -> None:
    """Leave what a run has that was ended after a step whose checkpoint it has saved."""
    kept = {f"checkpoint-{step}", "run.json", *(["metrics.jsonl"] if log else [])}
    for path in folder.iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def files_of(folder: Path) -> dict[Path, bytes]:
    """Return every file below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edited(source: Path, target: Path, edit: Callable[[list[dict[str, Any]]], object]) -> Path:
    """Write a data file's records, edited in place, to another file."""
    records = json.loads(source.read_text())
    edit(records)
    target.write_text(json.dumps(records))
    return target


# --- naive twins ----------------------------------------------------------------------------------


@torch.no_grad()
def logits(model: Any, ids: list[int], mask: list[bool], pixels: torch.Tensor | None) -> Any:
    """Return the logits ``(L, V)`` as training gets them: an image's places by mask, not by id."""
    embeds = model.get_input_embeddings()(torch.tensor([ids]))
    if pixels is not None:
        visual = torch.stack(list(model.get_image_features(pixels[None]).pooler_output))
        # registers are the first
        embeds = embeds.masked_scatter(torch.tensor([mask])[..., None], visual[:, -sum(mask) :])
    hidden = model.model.language_model(inputs_embeds=embeds).last_hidden_state
    return model.lm_head(hidden)[0]


def greedy(
    model: Any,
    ids: list[int],
    mask: list[bool],
    pixels: torch.Tensor | None,
    count: int,
    stop: Sequence[int] = (),
) -> list[int]:
    """Take the likeliest token `count` times, each time from the whole sequence."""
    new: list[int] = []
    while len(new) < count and (not new or new[-1] not in stop):
        row = logits(model, [*ids, *new], [*mask, *[False] * len(new)], pixels)[-1]
        new.append(int(row.argmax()))
    return new
