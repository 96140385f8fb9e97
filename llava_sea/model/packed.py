"""Attention for packed rows: each sample of a row attends to itself alone, causally.

The LLM stays transformers' and is told by keywords that go through its layers to the attention:

- FlashAttention: ``cu_seq_lens_*`` and ``max_length_*``, transformers' names for its varlen
  kernels; all samples of a row in one call, nothing computed between samples.
- SDPA: `per_sample_sdpa`, put in place of it by `prepare_attention`: one causal call a sample,
  which needs no mask, where a mask over the row would cost the square of the row's length.
- flex: positions that begin again at 0 and no mask: transformers then makes the block-diagonal mask
  itself.

Limits: an LLM in which something else than the attention goes from token to token (Mamba and other
recurrent layers, convolutions), or that does not go through transformers' choice of attentions, is
refused, and so is any other attention (eager: its mask grows with the row's square); logit
soft-capping needs FlashAttention.

Shape letters: R rows (1), L tokens, H heads, D size of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from llava_sea.errors import UserError

PER_SAMPLE = "sdpa_per_sample"
"""Name of `per_sample_sdpa` among transformers' attentions."""
_LAYERS = {"full_attention", "sliding_attention"}
_LEAKS = {"gpt_oss", "nemotron", "opt"}
"""Kinds of LLMs that were tried, and where some attention mixes a row's samples nevertheless."""


def prepare_attention(llm: nn.Module) -> None:
    """Make an LLM ready for packed rows; its results for rows of one sample stay as they are.

    Raises:
        UserError: if the LLM's attention cannot be kept within samples.
    """
    model: Any = llm
    attention, kind = model.config._attn_implementation, model.config.model_type
    layers = set(getattr(model.config, "layer_types", None) or ()) - _LAYERS
    if layers or model._is_stateful or not model._supports_attention_backend or kind in _LEAKS:
        raise UserError(
            f"--pack_sequences True: the LLM's kind, {kind}, is not known to keep samples apart "
            "in a row; leave --pack_sequences out"
        )
    if attention == "sdpa":
        AttentionInterface.register(PER_SAMPLE, per_sample_sdpa)
        AttentionMaskInterface.register(PER_SAMPLE, _mask)
        model.set_attn_implementation(PER_SAMPLE)
    elif attention not in ("flex_attention", PER_SAMPLE) and "flash" not in attention:
        raise UserError(
            f"--pack_sequences True: attention {attention} cannot keep a row's samples apart "
            "without a mask of the row's square; pass --attn_implementation sdpa, or leave "
            "--pack_sequences out"
        )


def packed_rows(
    llm: nn.Module, position_ids: Tensor, sample_lengths: Sequence[int]
) -> dict[str, Any]:
    """Return the keywords with which an LLM sees the samples of a row apart; it takes no mask then.

    Args:
        llm: after `prepare_attention`.
        position_ids: ``(R, L)``, from 0 at each sample.
        sample_lengths: of the samples, whose sum is L.
    """
    config: Any = llm.config
    attention = config._attn_implementation
    keywords: dict[str, Any] = {"position_ids": position_ids}
    if attention == PER_SAMPLE:
        keywords["sample_lengths"] = list(sample_lengths)
    elif "flash" in attention:
        starts = [0, *accumulate(sample_lengths)]
        for part in "qk":
            keywords[f"cu_seq_lens_{part}"] = torch.tensor(
                starts, dtype=torch.int32, device=position_ids.device
            )
            keywords[f"max_length_{part}"] = max(sample_lengths)
    return keywords


def per_sample_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    sample_lengths: Sequence[int] | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' SDPA does, one sample of the row after the other.

    `query` is ``(R, H, L, D)``; `key` and `value` may have fewer heads. A mask is used as it is;
    without one a token sees the earlier tokens of its sample, of which `sliding_window`, itself
    included. Without `sample_lengths` the row is one sample.

    Returns:
        ``(R, L, H, D)``, and None for the weights.
    """
    sdpa: Any = sdpa_attention_forward
    if attention_mask is not None:
        return sdpa(module, query, key, value, attention_mask, **options)
    lengths = list(sample_lengths or [query.shape[2]])
    parts = (states.split(lengths, dim=2) for states in (query, key, value))
    outputs = []
    for q, k, v in zip(*parts, strict=True):
        band = _band(q.shape[2], sliding_window, q.device)
        outputs.append(sdpa(module, q, k, v, band, **options)[0])
    return torch.cat(outputs, dim=1), None


def _band(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """Return the causal mask of a window ``(1, 1, L, L)``, None where the window sees all."""
    if window is None or length <= window:
        return None
    ones = torch.ones(length, length, dtype=torch.bool, device=device)
    return (ones.tril() & ones.triu(1 - window))[None, None]


def _mask(**options: Any) -> Tensor | None:
    """Make a mask for `per_sample_sdpa` only where there is padding to mask."""
    return None if options.get("attention_mask") is None else sdpa_mask(**options)
