"""8 and 4 bits, where bitsandbytes is installed."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from llava_sea.serve.setup import quantize_linear

pytest.importorskip("bitsandbytes")


@pytest.mark.parametrize("bits, most", [(8, 0.01), (4, 0.03)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.inference_mode()
def test_quantised_layers_compute_nearly_the_same(bits, most, dtype):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=100,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    llm = LlamaModel(config).to(dtype).eval()
    embeds = torch.randn(1, 9, 128, dtype=dtype)
    exact = llm(inputs_embeds=embeds).last_hidden_state.float()
    quantize_linear(llm, bits, dtype)
    llm = llm.to("cpu")
    weight = llm.layers[0].self_attn.q_proj.weight
    assert weight.dtype == (torch.int8 if bits == 8 else torch.uint8)
    error = (llm(inputs_embeds=embeds).last_hidden_state.float() - exact).norm() / exact.norm()
    assert 0 < error < most
