"""A small random model that answers at length, and a checkpoint of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from llava_sea.conversation import get_template
from llava_sea.data.images import ImageTransform
from llava_sea.model.builder import build_llava, load_tokenizer
from llava_sea.model.write import write_llava


@pytest.fixture(scope="session")
def talker(tiny, tmp_path_factory) -> SimpleNamespace:
    """The parts of a model, its checkpoint's folder and a picture."""
    root = tmp_path_factory.mktemp("serve")
    llm = root / "llm"
    tokenizer = AutoTokenizer.from_pretrained(tiny.llm)
    tokenizer.save_pretrained(llm)
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.3,  # logits far apart: greedy texts then do not hang on rounding
    )
    LlamaForCausalLM(config).save_pretrained(llm)
    parts = SimpleNamespace(
        llm=llm,
        model=build_llava(str(llm), str(tiny.clip)).eval(),
        tokenizer=load_tokenizer(str(llm), model_max_length=900),
        transform=ImageTransform.from_pretrained(str(tiny.clip), "pad"),
        template=get_template("v1"),
        picture=tiny.images / "001.png",
        folder=root / "checkpoint",
    )
    write_llava(
        parts.folder,
        parts.model,
        parts.tokenizer,
        parts.transform,
        parts.template,
        extra_config={"conversation_template": "v1", "mm_vision_tower": str(tiny.clip)},
    )
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
