"""A small random model that answers at length, and a checkpoint of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from llava_sea.data.records import Turn
from llava_sea.data.tokenize import tokenize_prompt
from tests import worlds


@pytest.fixture(scope="session")
def talker(tiny, tmp_path_factory) -> SimpleNamespace:
    """The parts of a model, its checkpoint's folder and a picture."""
    parts = worlds.talker(tmp_path_factory.mktemp("serve"), tiny)
    parts.picture = tiny.images / "001.png"
    return parts


@pytest.fixture
def pixels(talker) -> torch.Tensor:
    """The picture ``(3, H, W)``."""
    return talker.transform(Image.open(talker.picture).convert("RGB"))


@pytest.fixture
def naive():
    """The hand-made twin of `generate`."""
    return worlds.greedy


@pytest.fixture
def converse(talker, pixels, naive):
    """Return the turns that questions and the twin's answers make."""

    def answer(questions: list[str]) -> list[Turn]:
        turns: list[Turn] = []
        for question in questions:
            turns.append(Turn("human", question if turns else f"<image>\n{question}"))
            ids, mask = tokenize_prompt(turns, talker.template, talker.tokenizer, 16)
            new = naive(talker.model, ids, mask, pixels, 12, [2])
            text = talker.tokenizer.decode(new, skip_special_tokens=True).strip()
            turns.append(Turn("gpt", text))
        return turns

    return answer


@pytest.fixture
def command(talker) -> list[str]:
    """Flags that every call of the command needs."""
    flags = {"model-path": talker.folder, "image-file": talker.picture, "device": "cpu"}
    return worlds.command_line(flags | {"temperature": 0, "max-new-tokens": 12})
