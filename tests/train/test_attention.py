"""The attention that is asked for is the one that runs."""

import pytest

from llava_sea.model.builder import build_llava


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_both_towers_run_what_was_asked_for(tiny, attention):
    llava = build_llava(str(tiny.llm), str(tiny.clip), attention=attention)
    llm, tower = llava.model.language_model, llava.model.vision_tower
    for part in (llm, tower, llm.layers[0].self_attn, llava):
        assert part.config._attn_implementation == attention
