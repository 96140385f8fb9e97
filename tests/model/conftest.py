"""Small models to write and load, and what stock transformers makes of what was written."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import pytest
from model_world import (
    ANSWER,
    CASES,
    FOLLOW_UP,
    NEW_TOKENS,
    QUESTION,
    run_elsewhere,
    save_llm,
    write,
)
from PIL import Image

from tests import worlds


@pytest.fixture(scope="session")
def make_case(tiny, dinov2, tmp_path_factory):
    """Return what one of `CASES` names: a stock Llava as training has it, and its parts."""

    def make(name: str) -> SimpleNamespace:
        kind, legacy, tower, aspect_ratio, version = CASES[name]
        llm = save_llm(tiny, tmp_path_factory.mktemp("llm"), kind, legacy=legacy)
        tower_path = dinov2 if tower == "dinov2" else getattr(tiny, tower)
        return worlds.llava_parts(llm, tower_path, aspect_ratio, version)

    return make


@pytest.fixture(scope="session")
def case(make_case) -> SimpleNamespace:
    """The case that most tests use; none changes it."""
    return make_case("clip-pad-v1")


STOCK_SCRIPT = Path(__file__).with_name("open_with_stock.py")


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
    python = os.environ.get("LLAVA_SEA_STOCK_PYTHON", sys.executable)
    run_elsewhere(python, [STOCK_SCRIPT, root / "jobs.json"], root / "elsewhere")
    for name, case in cases.items():
        case.stock = SimpleNamespace(**json.loads((root / f"{name}.npz.json").read_text()))
        case.arrays = dict(np.load(root / f"{name}.npz"))
    return cases
