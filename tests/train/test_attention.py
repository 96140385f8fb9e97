"""The attention that is asked for is the one that runs."""

import pytest
import torch
from transformers.utils import is_flash_attn_2_available

from llava_sea.errors import UserError
from llava_sea.model.builder import build_llava
from llava_sea.train.precision import check_attention


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_both_towers_run_what_was_asked_for(tiny, attention):
    llava = build_llava(str(tiny.llm), str(tiny.clip), attention=attention)
    llm, tower = llava.model.language_model, llava.model.vision_tower
    for part in (llm, tower, llm.layers[0].self_attn, llava):
        assert part.config._attn_implementation == attention


@pytest.mark.parametrize(
    ("name", "reason"), [("flash_attention_9", "not supported"), ("flash_attention_2", "Flash")]
)
def test_one_that_is_not_there_is_refused_by_its_flag(name, reason):
    if name == "flash_attention_2" and is_flash_attn_2_available():
        pytest.skip("FlashAttention 2 is installed")
    with pytest.raises(UserError, match=f"--attn_implementation {name}: .*{reason}.*pass sdpa"):
        check_attention(name, torch.bfloat16)
    check_attention("sdpa", torch.bfloat16)
