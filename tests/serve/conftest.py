"""A small random model that answers at length, and a checkpoint of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

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


def greedy(model, ids: list[int], mask: list[bool], pixels, count: int, stop: list[int]):
    """Take the likeliest token `count` times, each time from the whole sequence."""
    embeds = model.get_input_embeddings()(torch.tensor([ids]))
    if pixels is not None:
        visual = torch.stack(list(model.get_image_features(pixels[None]).pooler_output))
        embeds = embeds.masked_scatter(torch.tensor([mask])[..., None], visual)
    new: list[int] = []
    while len(new) < count and (not new or new[-1] not in stop):
        hidden = model.model.language_model(inputs_embeds=embeds).last_hidden_state
        new.append(int(model.lm_head(hidden[:, -1]).argmax()))
        embeds = torch.cat([embeds, model.get_input_embeddings()(torch.tensor([new[-1:]]))], 1)
    return new


@pytest.fixture
def naive():
    """The hand-made twin of `generate`."""
    return torch.no_grad()(greedy)


@pytest.fixture
def command(talker) -> list[str]:
    """Flags that every call of the command needs."""
    return [
        "--model-path",
        str(talker.folder),
        "--image-file",
        str(talker.picture),
        "--temperature",
        "0",
        "--max-new-tokens",
        "12",
        "--device",
        "cpu",
    ]
