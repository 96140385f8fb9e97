"""Put a vision tower, a fresh projector and an LLM together into transformers' Llava.

The result is a stock `LlavaForConditionalGeneration`; no weight is allocated twice, and under
ZeRO-3 each part is loaded partitioned. Any CLIP, SigLIP or DINOv2 tower and any decoder that
`AutoModelForCausalLM` knows.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations import deepspeed as hf_deepspeed
from transformers.integrations import deepspeed_config, is_deepspeed_zero3_enabled
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector
from transformers.utils import logging as hf_logging

from llava_sea.errors import UserError
from llava_sea.model.load_sentencepiece import auto_tokenizer
from llava_sea.model.load_weights import check_model
from llava_sea.model.projector_io import gathered, load_projector
from llava_sea.pretrained import load_pretrained
from llava_sea.ranges import check_range, whole

logger = logging.getLogger(__name__)

TOWER_HAS_CLS = {
    "clip_vision_model": True,
    "siglip_vision_model": False,
    "dinov2": True,
}
"""Vision towers this package knows -> whether their first token is a class token."""


def build_llava(
    llm_path: str,
    tower_path: str,
    *,
    dtype: torch.dtype = torch.float32,
    attention: str | None = None,
    select_layer: int = -2,
    projector_path: str | None = None,
    seed: int = 42,
    cache_dir: str | None = None,
    llm_options: Mapping[str, Any] | None = None,
) -> LlavaForConditionalGeneration:
    """Build a Llava from its parts.

    Args:
        llm_path: folder or hub id of the language model.
        tower_path: folder or hub id of the vision tower (or of the CLIP/SigLIP it belongs to).
        dtype: of all weights.
        attention: transformers' name of the attention implementation; None lets it choose.
        select_layer: which hidden state feeds the projector (LLaVA: -2).
        projector_path: an `mm_projector.bin`; without it the projector starts as LLaVA's does.
        seed: of the projector's first values.
        cache_dir: where hub files are cached.
        llm_options: more options for loading the LLM (quantisation).

    Raises:
        UserError: if a part cannot be found, or is of a kind this package does not know.
    """
    check_model(llm_path)
    options: dict[str, Any] = {"cache_dir": cache_dir, "dtype": dtype}
    if attention:
        options["attn_implementation"] = attention
    check_is_llm(llm_path, cache_dir)
    tower = load_tower(tower_path, **options)
    check_select_layer(select_layer, tower.config, tower_path)
    llm = load_pretrained(AutoModelForCausalLM, llm_path, **options, **(llm_options or {}))

    has_cls = TOWER_HAS_CLS[tower.config.model_type]
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=llm.config,
        # No token of the LLM: the picture's places come to the model as a mask, never by id.
        image_token_index=llm.config.vocab_size,
        image_seq_length=num_patches(tower.config),
        projector_hidden_act="gelu",
        vision_feature_layer=select_layer,
        vision_feature_select_strategy="default" if has_cls else "full",
    )
    with torch.device("meta"), without_zero3():
        llava = LlavaForConditionalGeneration(config)
    with zero_init():
        projector = LlavaMultiModalProjector(config).to(dtype)
    llava.model.vision_tower = tower
    llava.model.language_model = llm.base_model
    llava.lm_head = llm.get_output_embeddings()
    llava.model.multi_modal_projector = projector
    if attention:
        # The empty Llava above shares the parts' configs and has put its own default there.
        llava.set_attn_implementation(attention)
    if llm.generation_config is not None:
        llava.generation_config = sane_generation_config(llm.generation_config)
    initialise_projector(projector, seed)
    if projector_path:
        load_projector(projector, projector_path)
    return llava


def sane_generation_config(config: GenerationConfig) -> GenerationConfig:
    """Return a generation config that can be saved.

    Vicuna's names a temperature without sampling, which transformers refuses to write: at the end
    of a run, with everything lost. Sampling is what such settings mean.
    """
    sane: GenerationConfig = copy.deepcopy(config)
    try:
        sane.validate(strict=True)
    except ValueError:
        sane.do_sample = True
    return sane


def load_tower(path: str, **options: Any) -> PreTrainedModel:
    """Load the vision half of a CLIP or SigLIP, or a vision-only model."""
    check_exists(path, "--vision_tower")
    check_model(path)
    config = load_pretrained(AutoConfig, path, cache_dir=options.get("cache_dir"))
    config = getattr(config, "vision_config", config)
    if config.model_type not in TOWER_HAS_CLS:
        raise UserError(
            f"--vision_tower {path}: its model type is {config.model_type!r}; known are "
            f"{', '.join(TOWER_HAS_CLS)}"
        )
    # Loading half of a CLIP leaves the other half over; transformers would list every key of it.
    with quiet_transformers():
        tower_class: Any = MODEL_MAPPING[type(config)]
        tower, report = load_pretrained(
            tower_class, path, config=config, output_loading_info=True, **options
        )
    if report["missing_keys"]:
        raise UserError(
            f"--vision_tower {path}: weights are missing: {sorted(report['missing_keys'])[:5]}"
        )
    result: PreTrainedModel = tower
    return result


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' warnings back where keys are compared here, and reported by name."""
    verbosity = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)


def load_tokenizer(
    path: str, *, model_max_length: int | None, cache_dir: str | None = None, pad: str = ""
) -> PreTrainedTokenizerBase:
    """Load the LLM's tokenizer, right-padded.

    Args:
        path: folder or hub id.
        model_max_length: longest sequence; None keeps what the tokenizer says.
        cache_dir: where hub files are cached.
        pad: a template's pad token, for a tokenizer that names none; where it has no such token,
            ``<unk>`` as in LLaVA, else EOS. Never a new token.
    """
    check_exists(path, "--model_name_or_path")
    length = {"model_max_length": model_max_length} if model_max_length else {}
    tokenizer = auto_tokenizer(path, cache_dir=cache_dir, padding_side="right", **length)
    if tokenizer.pad_token is None:
        known = pad and tokenizer.convert_tokens_to_ids(pad) not in (None, tokenizer.unk_token_id)
        tokenizer.pad_token = pad if known else tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def check_exists(path: str, flag: str) -> None:
    """Refuse what looks like a local folder and is none, before transformers asks a hub for it."""
    looks_local = path.startswith((".", "/", "~")) or path.count("/") > 1
    if looks_local and not Path(path).is_dir():
        raise UserError(f"{flag} {path}: no such folder")


def check_is_llm(path: str, cache_dir: str | None = None) -> None:
    """Refuse what is no language model, by its config alone.

    Raises:
        UserError: naming its model type, or if there is none.
    """
    check_exists(path, "--model_name_or_path")
    try:
        config = load_pretrained(AutoConfig, path, cache_dir=cache_dir)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"--model_name_or_path {path}: {str(error).splitlines()[0]}") from None
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(
            f"--model_name_or_path {path}: its model type is {config.model_type!r}, which is no "
            "language model; name the LLM"
        )


def check_select_layer(layer: int, vision_config: Any, tower_path: str) -> None:
    """Refuse a hidden state that the tower does not have.

    Raises:
        UserError: naming those that there are.
    """
    depth = vision_config.num_hidden_layers
    why = f"{tower_path} has {depth} layers"
    check_range("mm_vision_select_layer", layer, whole(-depth - 1, depth), why)


def num_patches(vision_config: Any) -> int:
    """Count the patches of a picture: (image size / patch size) squared."""
    side = vision_config.image_size // vision_config.patch_size
    return int(side * side)


def zero3_is_on() -> bool:
    """Say whether parameters are made partitioned over the ranks."""
    return bool(is_deepspeed_zero3_enabled())


def zero_init() -> AbstractContextManager[Any]:
    """Under ZeRO-3, create the parameters partitioned; else do nothing."""
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    import deepspeed

    context: AbstractContextManager[Any] = deepspeed.zero.Init(
        config_dict_or_path=deepspeed_config()
    )
    return context


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
    with gathered(projector, write=True):
        for layer in projector.children():
            if not isinstance(layer, nn.Linear):
                continue
            bound = 1 / math.sqrt(layer.in_features)
            for parameter in (layer.weight, layer.bias):
                drawn = torch.rand(parameter.shape, generator=generator)
                parameter.data.copy_((2 * drawn - 1) * bound)
