"""Put a vision tower, a fresh projector and an LLM together into transformers' Llava.

The result is a stock `LlavaForConditionalGeneration`; no weight is allocated twice, and under
ZeRO-3 each part is loaded partitioned. Any tower of `llava_sea.model.towers` and any decoder that
`AutoModelForCausalLM` knows.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerBase,
)
from transformers.integrations import deepspeed as hf_deepspeed
from transformers.integrations import deepspeed_config, is_deepspeed_zero3_enabled
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector
from transformers.utils.hub import cached_file

from llava_sea.errors import UserError
from llava_sea.model.load_sentencepiece import auto_tokenizer
from llava_sea.model.load_weights import check_exists, check_model, model_config, read_weights
from llava_sea.model.projector_io import gathered, load_projector
from llava_sea.model.towers import check_select_layer, load_tower, num_patches, prefix_tokens
from llava_sea.pretrained import load_pretrained


def build_llava(
    llm_path: str,
    tower_path: str,
    *,
    dtype: torch.dtype = torch.float32,
    attention: str | None = None,
    select_layer: int = -2,
    keep_cls: bool = False,
    projector_path: str | None = None,
    seed: int = 42,
    cache_dir: str | None = None,
    llm_options: Mapping[str, Any] | None = None,
) -> LlavaForConditionalGeneration:
    """Build a Llava from its parts; the paths are folders or hub ids.

    Args:
        llm_path: of the language model.
        tower_path: of the vision tower, or of the CLIP or SigLIP that it belongs to.
        dtype: of all weights.
        attention: transformers' name of the implementation; None lets it choose.
        select_layer: which hidden state feeds the projector (LLaVA: -2).
        keep_cls: as in `llava_config`.
        projector_path: an `mm_projector.bin`; without it the projector starts as LLaVA's does.
        seed: of the projector's first values.
        cache_dir: where hub files are cached.
        llm_options: more options for loading the LLM (quantisation).
    """
    options: dict[str, Any] = {"cache_dir": cache_dir, "dtype": dtype}
    if attention:
        options["attn_implementation"] = attention
    check_model(llm_path)
    llm_config(llm_path, cache_dir)
    tower = load_tower(tower_path, **options)
    check_select_layer(select_layer, tower.config, tower_path)
    llm = load_pretrained(AutoModelForCausalLM, llm_path, **options, **(llm_options or {}))

    config = llava_config(tower.config, llm.config, select_layer=select_layer, keep_cls=keep_cls)
    with torch.device("meta"), without_zero3():
        llava = LlavaForConditionalGeneration(config)
    zero_init: Any = nullcontext()
    if is_deepspeed_zero3_enabled():
        import deepspeed

        zero_init = deepspeed.zero.Init(config_dict_or_path=deepspeed_config())
    with zero_init:
        projector = LlavaMultiModalProjector(config).to(dtype)
    llava.model.vision_tower = tower
    llava.model.language_model = llm.base_model
    llava.lm_head = llm.get_output_embeddings()
    llava.model.multi_modal_projector = projector
    if attention:
        # The empty Llava above shares the parts' configs and has put its own default there.
        llava.set_attn_implementation(attention)
    if llm.generation_config is not None:
        llava.generation_config = copy.deepcopy(llm.generation_config)
        try:
            llava.generation_config.validate(strict=True)
        except ValueError:  # Vicuna's names a temperature alone, which means sampling
            llava.generation_config.do_sample = True
    initialise_projector(projector, seed)
    if projector_path:
        load_projector(projector, projector_path)
    return llava


def build_llava_without_llm(
    llm_path: str,
    tower_path: str,
    *,
    cache_dir: str | None = None,
    **options: Any,
) -> LlavaForConditionalGeneration:
    """Build a Llava that projects images and looks up words: all that the loss (eq. 10) needs.

    The LLM's other weights stay on the meta device and are never read: of 14 GB the embedding table
    alone leaves the disk. A scale that some LLMs (Gemma) put on their embeddings is left out: the
    loss is of cosines. Options are `build_llava`'s.
    """
    llava = build_llava(
        llm_path,
        tower_path,
        cache_dir=cache_dir,
        llm_options={"device_map": "meta"},
        **options,
    )
    llm: Any = llava.model.language_model
    shell: nn.Module = llm.get_input_embeddings()
    weight: Any = shell.weight
    name = next(name for name, parameter in llm.named_parameters() if parameter is weight)
    if Path(llm_path).is_dir():
        folder = Path(llm_path)
    else:  # its files are in the cache: the shell was made from them
        folder = Path(str(cached_file(llm_path, "config.json", cache_dir=cache_dir))).parent
    table = find_tensor(folder, name)
    if table.shape != weight.shape:
        raise UserError(
            f"{folder}: {name} has shape {tuple(table.shape)}, its config.json says "
            f"{tuple(weight.shape)}"
        )
    embeddings = nn.Embedding.from_pretrained(table.to(weight.dtype), freeze=True)
    llava.model.language_model = EmbeddingTable(embeddings, llm.config)
    llava.lm_head = nn.Identity()
    return llava


class EmbeddingTable(nn.Module):
    """Stands where an LLM was."""

    def __init__(self, embeddings: nn.Embedding, config: Any) -> None:
        super().__init__()
        self.embed_tokens, self.config = embeddings, config

    def get_input_embeddings(self) -> nn.Module:
        """Return the table."""
        return self.embed_tokens

    def gradient_checkpointing_enable(self, *_: Any, **__: Any) -> None:
        """Nothing is recomputed: there are no layers."""


def find_tensor(folder: Path, name: str) -> Tensor:
    """Read one tensor of a checkpoint, whatever prefix its files put before the name."""
    weights = read_weights(folder)
    found = [key for key in weights if key == name or key.endswith(f".{name}")]
    if len(found) != 1:
        raise UserError(
            f"{folder}: the language model's embeddings were looked for as {name!r}, found: "
            f"{', '.join(found) or 'nothing'}"
        )
    return weights[found[0]].clone(memory_format=torch.contiguous_format)


def llava_config(
    vision_config: Any, text_config: Any, *, select_layer: int, keep_cls: bool = False
) -> LlavaConfig:
    """Put the parts' configurations together.

    `keep_cls` says whether the tokens before the patches, where there are any, go to the LLM too.
    """
    prefix = prefix_tokens(vision_config)
    return LlavaConfig(
        vision_config=vision_config,
        text_config=text_config,
        # No token of the LLM: the image's places come to the model as a mask, never by id.
        image_token_index=text_config.vocab_size,
        image_seq_length=num_patches(vision_config) + prefix * keep_cls,
        projector_hidden_act="gelu",
        vision_feature_layer=select_layer,
        vision_feature_select_strategy="default" if prefix and not keep_cls else "full",
    )


def load_tokenizer(
    path: str,
    *,
    model_max_length: int | None,
    cache_dir: str | None = None,
    pad: str = "",
    model_type: str | None = None,
) -> PreTrainedTokenizerBase:
    """Load the LLM's tokenizer, right-padded.

    Without `model_max_length` the tokenizer's own stays. `pad` is a template's pad token, for a
    tokenizer that names none; where it has no such token, ``<unk>`` as in LLaVA, else EOS. Never a
    new token. `model_type` is as in `auto_tokenizer`.
    """
    check_exists(path, "--model_name_or_path")
    length = {"model_max_length": model_max_length} if model_max_length else {}
    tokenizer = auto_tokenizer(
        path, cache_dir=cache_dir, model_type=model_type, padding_side="right", **length
    )
    if tokenizer.pad_token is None:
        known = pad and tokenizer.convert_tokens_to_ids(pad) not in (None, tokenizer.unk_token_id)
        tokenizer.pad_token = pad if known else tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def llm_config(
    path: str,
    cache_dir: str | None = None,
    *,
    or_llava: bool = False,
    flag: str = "--model_name_or_path",
) -> Any:
    """Return the configuration of a language model; `or_llava` accepts a ``llava-hf`` too.

    Raises:
        UserError: if there is none, or it is no language model's; `flag` is what named it.
    """
    config = model_config(path, flag, cache_dir)
    is_known = or_llava and config.model_type == "llava"
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not is_known:
        raise UserError(
            f"{flag} {path}: its model type is {config.model_type!r}, which is no "
            "language model; name the LLM"
        )
    if getattr(config.get_text_config(), "hidden_size_per_layer_input", None):
        raise UserError(
            f"{flag} {path}: each layer of a {config.model_type} reads the ids of its tokens "
            "(hidden_size_per_layer_input), and an image's have none; take an LLM without such "
            "inputs (Gemma 3, Qwen3, Llama 3, ...)"
        )
    return config


@contextmanager
def without_zero3() -> Iterator[None]:
    """Keep transformers from partitioning what is made here: a shell without values."""
    active = hf_deepspeed._hf_deepspeed_config_weak_ref
    hf_deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        hf_deepspeed._hf_deepspeed_config_weak_ref = active


def initialise_projector(projector: nn.Module, seed: int) -> None:
    """Draw the projector's first values as LLaVA does: nn.Linear's default, U(-1, 1)/sqrt(fan_in).

    Drawn on the CPU from its own generator, so they do not depend on the engine or the device.
    """
    generator = torch.Generator().manual_seed(seed)
    with gathered(*projector.parameters(), write=True):
        for layer in projector.children():
            if isinstance(layer, nn.Linear):
                bound = 1 / math.sqrt(layer.in_features)
                for parameter in (layer.weight, layer.bias):
                    drawn = torch.rand(parameter.shape, generator=generator)
                    parameter.data.copy_((2 * drawn - 1) * bound)
