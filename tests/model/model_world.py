"""Small random models, written and tokenised in the tests of checkpoints in and out."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from transformers import AutoTokenizer

from llava_sea.data.records import load_records
from llava_sea.data.tokenize import tokenize_record
from llava_sea.model.builder import load_tokenizer
from llava_sea.model.write import write_llava
from tests import worlds

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
    model = (tiny.llm / "tokenizer.model").read_bytes()
    worlds.save_llama_tokenizer(folder, model, legacy=legacy)


def save_llm(tiny: SimpleNamespace, folder: Path, kind: str = "grows", *, legacy=False) -> Path:
    """Write a small random Llama; `kind` says whether its embedding has a row for ``<image>``."""
    save_tokenizer(tiny, folder, legacy=legacy)
    rows = len(AutoTokenizer.from_pretrained(folder)) + (3 if kind == "has a row" else 0)
    rope = {"rope_type": "default", "rope_theta": 5e5}
    changes = {"tie_word_embeddings": kind == "tied", "rope_parameters": rope}
    return worlds.save_llm(folder, rows, **worlds.FAR_APART, **changes)


def edit(path: Path, **changes) -> None:
    """Change settings in a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def with_bos(case: SimpleNamespace) -> SimpleNamespace:
    """Let a case's tokenizer, and the one in its LLM's folder, begin texts as Vicuna's does."""
    edit(case.llm / "tokenizer_config.json", add_bos_token=True)
    case.tokenizer = load_tokenizer(str(case.llm), model_max_length=900)
    assert case.tokenizer("a").input_ids[0] == 1
    return case


def run_elsewhere(python: str, arguments: Sequence[object], folder: Path) -> str:
    """Run another Python, which must not find llava_sea, and return what it printed."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [python, *map(str, arguments)],
        cwd=folder,
        env=env | {"HF_DATASETS_CACHE": str(folder / "datasets")},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def write(case: SimpleNamespace, folder: Path, **options) -> list[str]:
    """Write a case's model."""
    return write_llava(folder, case.model, case.tokenizer, case.transform, case.template, **options)


def tokens_of(case: SimpleNamespace, *texts: str, folder: Path, patches: int = 16):
    """Tokenise a conversation as training does; an open last question gets its prompt's end."""
    open_end = len(texts) % 2 == 1
    row = worlds.record("0", "image.png", *texts, *(["x"] if open_end else []))
    path = folder / "record.json"
    path.write_text(json.dumps([row]))
    found = tokenize_record(load_records(path)[0], case.template, case.tokenizer, patches, 900)
    if not open_end:
        return found
    length = max(n for n, label in enumerate(found.labels) if label == -100) + 1
    return type(found)(*(part[:length] for part in found))
