"""Small models to write and load, and what stock transformers makes of what was written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

from llava_sea.conversation import get_template
from llava_sea.data.images import ImageTransform
from llava_sea.data.records import load_records
from llava_sea.data.tokenize import tokenize_record
from llava_sea.model.builder import build_llava, load_tokenizer
from llava_sea.model.write import write_llava

NEW_TOKENS = 8
QUESTION, ANSWER, FOLLOW_UP = "What is beside the red ball?", "a green box", "And the black one?"

# Rows of the embedding, tied or not, `legacy` of the tokenizer, tower, aspect ratio, template.
CASES = {
    "clip-square-v1-legacy": ("grows", True, "clip", "square", "v1"),
    "clip-pad-v1": ("grows", False, "clip", "pad", "v1"),
    "siglip-pad-plain": ("has a row", False, "siglip", "pad", "plain"),
    "siglip-square-plain-legacy-tied": ("tied", True, "siglip", "square", "plain"),
    "dinov2-pad-llava_v1-tied": ("tied", False, "dinov2", "pad", "llava_v1"),
}


def save_tokenizer(tiny: SimpleNamespace, folder: Path, *, legacy: bool) -> None:
    """Write a SentencePiece tokenizer folder as Llama's and Vicuna's are."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes((tiny.llm / "tokenizer.model").read_bytes())
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": legacy,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert AutoTokenizer.from_pretrained(folder).legacy is legacy


def save_llm(tiny: SimpleNamespace, folder: Path, kind: str = "grows", *, legacy=False) -> Path:
    """Write a small random Llama; `kind` says whether its embedding has a row for ``<image>``."""
    save_tokenizer(tiny, folder, legacy=legacy)
    rows = len(AutoTokenizer.from_pretrained(folder)) + (3 if kind == "has a row" else 0)
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=kind == "tied",
        initializer_range=0.3,  # logits far apart: greedy texts then do not hang on rounding
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small DINOv2 with its image processor."""
    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(6)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=24, patch_size=6
    )
    Dinov2Model(config).save_pretrained(folder)
    BitImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 24, "width": 24}
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_case(tiny, dinov2, tmp_path_factory):
    """Return what one of `CASES` names: a stock Llava as training has it, and its parts."""

    def make(name: str) -> SimpleNamespace:
        kind, legacy, tower, aspect_ratio, version = CASES[name]
        llm = save_llm(tiny, tmp_path_factory.mktemp("llm"), kind, legacy=legacy)
        tower_path = str(dinov2 if tower == "dinov2" else getattr(tiny, tower))
        return SimpleNamespace(
            model=build_llava(str(llm), tower_path).eval(),
            tokenizer=load_tokenizer(str(llm), model_max_length=900),
            transform=ImageTransform.from_pretrained(tower_path, aspect_ratio),
            template=get_template(version),
            llm=llm,
            tower=tower_path,
        )

    return make


def write(case: SimpleNamespace, folder: Path, **options) -> list[str]:
    """Write a case's model."""
    return write_llava(
        folder, case.model, case.tokenizer, case.transform, case.template, **options
    )


def tokens_of(case: SimpleNamespace, *texts: str, folder: Path):
    """Tokenise a conversation as training does; an open last question gets its prompt's end."""
    open_end = len(texts) % 2 == 1
    turns = [*texts, *(["x"] if open_end else [])]
    row = {
        "id": "0",
        "image": "picture.png",
        "conversations": [
            {"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(turns)
        ],
    }
    path = folder / "record.json"
    path.write_text(json.dumps([row]))
    patches = 16
    found = tokenize_record(load_records(path)[0], case.template, case.tokenizer, patches, 900)
    if not open_end:
        return found
    length = max(n for n, label in enumerate(found.labels) if label == -100) + 1
    return type(found)(*(part[:length] for part in found))


@torch.no_grad()
def training_logits(model, ids: list[int], mask: list[bool], pixels: torch.Tensor) -> torch.Tensor:
    """Logits ``(L, V)`` as training gets them: the picture's places by mask, not by id."""
    embeds = model.get_input_embeddings()(torch.tensor([ids]))
    visual = torch.stack(list(model.get_image_features(pixels[None]).pooler_output))
    embeds = embeds.masked_scatter(torch.tensor([mask])[..., None], visual)
    hidden = model.model.language_model(inputs_embeds=embeds).last_hidden_state
    return model.lm_head(hidden)[0]


_STOCK = """
import json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "llava_sea":
            raise ImportError(name)

sys.meta_path.insert(0, Blocker())
try:
    import llava_sea
    raise SystemExit("llava_sea can be imported")
except ImportError:
    pass
import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

jobs = json.load(open(sys.argv[1]))
for job in jobs:
    model, report = AutoModelForImageTextToText.from_pretrained(
        job["folder"], dtype=torch.float32, output_loading_info=True
    )
    processor = AutoProcessor.from_pretrained(job["folder"])
    image = Image.open(job["image"])
    whole = processor.apply_chat_template(job["whole"], tokenize=False)
    inputs = processor(images=image, text=whole, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    prompt = processor.apply_chat_template(
        job["prompt"], tokenize=True, add_generation_prompt=True, return_dict=True,
        return_tensors="pt",
    )
    out = model.generate(**prompt, max_new_tokens=job["new_tokens"])
    new = out[0, prompt["input_ids"].shape[1]:]
    np.savez(
        job["out"],
        whole_ids=inputs["input_ids"][0].numpy(),
        logits=logits.numpy(),
        pixels=inputs["pixel_values"][0].numpy(),
        prompt_ids=prompt["input_ids"][0].numpy(),
    )
    result = {
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(report["unexpected_keys"]),
        "mismatched": sorted(map(str, report["mismatched_keys"])),
        "text": processor.decode(new, skip_special_tokens=True),
        "class": type(model).__name__,
        "image_token_id": processor.image_token_id,
        "image_processor": type(processor.image_processor).__name__,
    }
    json.dump(result, open(job["out"] + ".json", "w"))
"""


@pytest.fixture(scope="session")
def opened(make_case, tmp_path_factory) -> dict[str, SimpleNamespace]:
    """Every case written, and opened by stock transformers in one process without llava_sea."""
    root = tmp_path_factory.mktemp("written models")
    pixels = np.random.default_rng(0).integers(0, 255, (30, 47, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "picture.png")
    cases, jobs = {}, []
    for name in CASES:
        case = make_case(name)
        case.folder, case.image = root / name, root / "picture.png"
        case.files = write(case, case.folder)
        image = {"type": "image", "path": str(case.image)}
        question = {"type": "text", "text": QUESTION}
        user = {"role": "user", "content": [image, question]}
        assistant = {"role": "assistant", "content": ANSWER}
        whole = [user, assistant]
        case.whole = ["<image>\n" + QUESTION, ANSWER]
        if not case.template.caption_only:
            whole += [{"role": "user", "content": FOLLOW_UP}, assistant]
            case.whole += [FOLLOW_UP, ANSWER]
        jobs.append(
            {
                "folder": str(case.folder),
                "image": str(case.image),
                "whole": whole,
                "prompt": [user],
                "new_tokens": NEW_TOKENS,
                "out": str(root / f"{name}.npz"),
            }
        )
        cases[name] = case
    (root / "jobs.json").write_text(json.dumps(jobs))
    (root / "elsewhere").mkdir()
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _STOCK, str(root / "jobs.json")],
        cwd=root / "elsewhere",
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name, case in cases.items():
        case.stock = SimpleNamespace(**json.loads((root / f"{name}.npz.json").read_text()))
        case.arrays = dict(np.load(root / f"{name}.npz"))
    return cases
