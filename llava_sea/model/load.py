"""Checkpoints in: LLaVA-1.5's (whole, projector only, LoRA) and ``llava-hf`` ones, by content.

The result is always transformers' stock Llava as training has it. Every weight that is missing is
an error, every one that is not understood is named; torch files are opened with `weights_only`.

Whole models go through `from_pretrained` with renamed weights that are mapped from disk, so ZeRO-3
partitions them as they come in and nothing is held twice. Names and shapes are compared before it:
under ZeRO-3 transformers 5.23 passes over weights that it does not know, and one rank alone sees
that a shape is wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from llava_sea.data.images import ImageTransform
from llava_sea.errors import UserError
from llava_sea.files import read_object
from llava_sea.model.builder import build_llava, llava_config, llm_config
from llava_sea.model.load_source import (
    HF,
    LLAVA,
    LORA,
    PROJECTOR,
    check_is_1_5,
    find_folder,
    has_llava_config,
    is_hf,
    llm_settings,
    read_config,
    recognise,
    recorded_base,
)
from llava_sea.model.load_weights import check_exists, quiet_transformers, read_weights
from llava_sea.model.lora import (
    ADAPTER_CONFIG,
    check_base,
    load_trained_whole,
    merge_adapter,
    read_adapter_config,
)
from llava_sea.model.names import (
    EMBEDDING,
    VISION_TOWER,
    check_fit,
    rename,
    shapes_of,
    some,
    to_stock,
)
from llava_sea.model.tokenizer import load_training_tokenizer
from llava_sea.model.towers import load_tower, tower_config
from llava_sea.pretrained import WRONG_FORM, load_pretrained, without_code
from llava_sea.templates import AUTO, Template, get_template

logger = logging.getLogger(__name__)


@dataclass
class Loaded:
    """A model and what belongs to it."""

    model: LlavaForConditionalGeneration
    """The stock Llava; `config.image_token_index` is no token (the vocabulary's size)."""
    tokenizer: PreTrainedTokenizerBase
    transform: ImageTransform
    vision_tower: str
    """Where the vision tower came from, as recorded or given."""
    version: str | None
    """The ``--version`` it was trained with, if the checkpoint says so."""
    kind: str
    """What the folder was recognised as."""

    @property
    def image_aspect_ratio(self) -> str:
        """``square`` or ``pad``."""
        return self.transform.aspect_ratio


@dataclass(frozen=True)
class _Source:
    """`load_llava`'s arguments, the folder found and its config.json."""

    folder: Path
    config: dict[str, Any]
    vision_tower: str | None
    cache_dir: str | None
    dtype: torch.dtype | None
    attention: str | None

    @property
    def select_layer(self) -> int:
        return int(self.config.get("mm_vision_select_layer", -2))

    @property
    def keep_cls(self) -> bool:
        return bool(self.config.get("mm_vision_select_feature", "patch") == "cls_patch")

    def tower(self) -> str:
        tower = self.vision_tower or self.config.get("mm_vision_tower")
        if not tower:
            raise UserError(
                f"{self.folder}: its config.json names no vision tower (mm_vision_tower); pass one "
                "with --vision_tower"
            )
        return str(tower)


def load_llava(
    path: str,
    *,
    model_base: str | None = None,
    vision_tower: str | None = None,
    dtype: torch.dtype | None = None,
    attention: str | None = None,
    cache_dir: str | None = None,
) -> Loaded:
    """Load a checkpoint, a folder or hub id, of any of the four kinds.

    `model_base`, the LLM (or LLaVA) that a projector or an adapter was trained on, and
    `vision_tower` take the place of the recorded ones. A `dtype` of None keeps that in which the
    weights are stored; `attention` is transformers' name of the implementation.
    """
    folder = find_folder(path, cache_dir)
    kind = recognise(folder)
    logger.info("%s is %s", path, kind)
    if model_base and kind in (HF, LLAVA):
        raise UserError(
            f"--model-base {model_base}: {path} is {kind} and holds all weights; leave "
            "--model-base out"
        )
    source = _Source(folder, read_config(folder), vision_tower, cache_dir, dtype, attention)
    if kind == HF:
        loaded = _load_hf(source)
    elif kind == LLAVA:
        loaded = _load_llava_1_5(source)
    elif kind == PROJECTOR:
        base = model_base or recorded_base(folder)
        if not base:
            raise UserError(
                f"{folder}: a projector alone, and its config.json does not record its LLM "
                "(_name_or_path); name it with --model-base"
            )
        loaded = _assemble(source, base, PROJECTOR, str(folder / "mm_projector.bin"))
    else:
        loaded = _load_lora(source, model_base or recorded_base(folder))
    loaded.transform.check_fits(loaded.model.config.vision_config)
    if (folder / "generation_config.json").is_file():
        read_object(folder / "generation_config.json")  # tells damage in one line
        loaded.model.generation_config = GenerationConfig.from_pretrained(folder)
    return loaded


def is_llava(path: str, cache_dir: str | None = None) -> bool:
    """Say whether a folder or hub id is a LLaVA of any kind and no LLM alone, by what it holds."""
    if any((Path(path) / name).is_file() for name in (ADAPTER_CONFIG, "mm_projector.bin")):
        return True
    config = _settings(path, cache_dir)
    return is_hf(config) or has_llava_config(config)


def embedding_rows(path: str, cache_dir: str | None = None) -> int:
    """Count the rows of the embedding table of an LLM, alone or in a LLaVA, by its config alone."""
    settings = _settings(path, cache_dir)
    if has_llava_config(settings):
        return int(llm_settings(settings, path).vocab_size)
    return int(llm_config(path, cache_dir, or_llava=True).get_text_config().vocab_size)


def find_template(version: str, llm: str, cache_dir: str | None = None) -> Template:
    """Return the template of ``--version`` for an LLM or LLaVA. Raises as `get_template`."""
    if version != AUTO:
        return get_template(version)
    settings = _settings(llm, cache_dir)
    kind = str(llm_settings(settings, llm).model_type) if has_llava_config(settings) else None
    if is_llava(llm, cache_dir):  # a projector's and an adapter's tokenizer is the base's
        llm = recorded_base(find_folder(llm, cache_dir)) or llm
    tokenizer = load_training_tokenizer(llm, model_type=kind, cache_dir=cache_dir)
    return get_template(version, tokenizer)


def _settings(path: str, cache_dir: str | None) -> dict[str, Any]:
    """Return the config.json of a folder or hub id, {} if there is none that can be read."""
    check_exists(path, "--model_name_or_path")
    if Path(path).is_dir():
        return read_config(Path(path))
    try:
        return dict(PreTrainedConfig.get_config_dict(path, cache_dir=cache_dir)[0])
    except (OSError, ValueError):
        return {}


def _load_hf(source: _Source) -> Loaded:
    """Load a ``llava-hf`` checkpoint: this package's own, or others'."""
    folder, settings = source.folder, source.config
    with _making(folder):
        config = LlavaConfig.from_dict(without_code(settings))
    text_config: Any = config.text_config
    config.image_token_index = text_config.vocab_size
    model = _from_weights(source, config)
    recorded = str(settings.get("mm_vision_tower") or folder)
    if source.vision_tower and source.vision_tower != recorded:
        logger.warning(
            "%s holds its own vision tower (from %s); --vision_tower %s is not used",
            folder,
            recorded,
            source.vision_tower,
        )
    # with tokenizer.json transformers reads that, whatever the model is called
    model_type = None if (folder / "tokenizer.json").is_file() else text_config.model_type
    return _with_parts(source, model, str(folder), recorded, HF, model_type, str(folder))


def _load_llava_1_5(source: _Source) -> Loaded:
    """Load a whole LLaVA-1.5 checkpoint; the tower's weights may be in it or only named."""
    tower = source.tower()
    vision_config = tower_config(tower, source.cache_dir, named_by=source.folder)
    check_is_1_5(source.config, source.folder)
    llm = llm_settings(source.config, source.folder)
    config = llava_config(
        vision_config,
        llm,
        select_layer=source.select_layer,
        keep_cls=source.keep_cls,
    )
    model = _from_weights(source, config, tower=tower)
    return _with_parts(source, model, str(source.folder), tower, LLAVA, llm.model_type)


def _load_lora(source: _Source, base: str) -> Loaded:
    """Load a base, put in what was trained whole, and merge the adapter."""
    adapter = read_adapter_config(source.folder)
    if not base:
        raise UserError(f"{source.folder}: records no base model; name it with --model-base")
    base_folder = find_folder(base, source.cache_dir, "--model-base")
    base_config = read_object(base_folder / "config.json")
    has_projector = is_hf(base_config) or has_llava_config(base_config)
    if has_projector:
        loaded = _on_llava(source, base_folder, base_config)
    else:
        loaded = _assemble(source, base, LORA)
    check_base(source.folder, adapter, base, loaded.model)
    trained = load_trained_whole(source.folder, loaded.model)
    layers, others = merge_adapter(loaded.model, source.folder, adapter)
    tower: Any = loaded.model.config.vision_config
    given = {to_stock(name, tower.model_type) for name in trained + others}
    needed = [n for n, _ in loaded.model.named_parameters() if "multi_modal_projector" in n]
    if not has_projector and given & set(needed) and not given >= set(needed):
        lacking = sorted(set(needed) - given)
        raise UserError(f"{source.folder}: the trained projector lacks {some(lacking)}")
    if not has_projector and not given & set(needed):
        raise UserError(
            f"{source.folder}: its base {base} is a plain LLM, and the trained projector "
            "(non_lora_trainables.bin or mm_projector.bin) is not there. LLaVA writes it at the "
            "end of training only; without it the model cannot see"
        )
    logger.info(
        "merged the LoRA updates of %d layers into %s: added in float32, kept in %s",
        layers,
        base,
        str(loaded.model.dtype).removeprefix("torch."),
    )
    return loaded


def _on_llava(source: _Source, folder: Path, config: dict[str, Any]) -> Loaded:
    """Load a base that is a LLaVA itself; what the adapter's config.json says goes before."""
    of_base = replace(source, folder=folder, config=config)
    base = _load_hf(of_base) if is_hf(config) else _load_llava_1_5(of_base)
    ratio = source.config.get("image_aspect_ratio") or base.image_aspect_ratio
    return replace(
        base,
        transform=ImageTransform(base.transform.processor, ratio),
        version=source.config.get("conversation_template") or base.version,
        kind=LORA,
    )


def _assemble(source: _Source, base: str, kind: str, projector_path: str | None = None) -> Loaded:
    """Build a model from an LLM and the tower that the folder names."""
    if not source.config:
        raise UserError(
            f"{source.folder}: no config.json, and so no word of its vision tower. "
            "LLaVA writes it, and the trained projector, at the end of LoRA training only: of its "
            "checkpoint-N folders nothing whole can be made"
        )
    check_is_1_5(source.config, source.folder)
    tower = source.tower()
    tower_config(tower, source.cache_dir, named_by=source.folder)
    stored = llm_config(base, source.cache_dir, flag="--model-base").dtype
    model = build_llava(
        base,
        tower,
        dtype=source.dtype or (stored if isinstance(stored, torch.dtype) else torch.float32),
        attention=source.attention,
        select_layer=source.select_layer,
        keep_cls=source.keep_cls,
        projector_path=projector_path,
        cache_dir=source.cache_dir,
    )
    return _with_parts(source, model, base, tower, kind)


def _with_parts(
    source: _Source,
    model: LlavaForConditionalGeneration,
    tokenizer: str,
    tower: str,
    kind: str,
    model_type: str | None = None,
    processor: str | None = None,
) -> Loaded:
    """Add tokenizer and image transform to a model; config.json's settings are used."""
    ratio = source.config.get("image_aspect_ratio")
    return Loaded(
        model=model,
        tokenizer=load_training_tokenizer(
            tokenizer,
            model_max_length=source.config.get("tokenizer_model_max_length"),
            model_type=model_type,
            cache_dir=source.cache_dir,
        ),
        # a processor of llava-hf knows by itself whether it pads
        transform=ImageTransform.from_pretrained(
            processor or tower, ratio if processor else str(ratio or "square")
        ),
        vision_tower=tower,
        version=source.config.get("conversation_template"),
        kind=kind,
    )


@contextmanager
def _making(folder: Path) -> Iterator[None]:
    """Name the folder in the error of a configuration that belongs to no model."""
    try:
        yield
    except (*WRONG_FORM, RuntimeError, ValueError) as error:
        raise UserError(
            f"{folder}: its config.json has a part that transformers cannot make "
            f"({' '.join(str(error).split())[:200]})"
        ) from None


def _from_weights(
    source: _Source, config: LlavaConfig, *, tower: str | None = None
) -> LlavaForConditionalGeneration:
    """Make the model of a folder's weights, after comparing every name and shape with it.

    `tower` says where the vision tower's weights are, if the folder has none.
    """
    folder = source.folder
    with _making(folder):
        expected = shapes_of(config)
    vision_config: Any = config.vision_config
    renamed, unknown = rename(read_weights(folder), folder, vision_config.model_type)
    weights = {name: tensor for name, tensor in renamed.items() if name in expected}
    unknown += [name for name in renamed if name not in expected]
    elsewhere = tower is not None and not any(name.startswith(VISION_TOWER) for name in weights)
    text_config: Any = config.text_config
    tied = bool(text_config.tie_word_embeddings)
    optional = (VISION_TOWER,) * elsewhere + ("lm_head.",) * tied
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    check_fit(shapes, expected, folder, unknown=unknown, optional=optional)
    if unknown:
        logger.warning(
            "%s: weights that no Llava has were left out: %s", folder, some(unknown, limit=100)
        )
    attention = {"attn_implementation": source.attention} if source.attention else {}
    with quiet_transformers():
        model: LlavaForConditionalGeneration = load_pretrained(
            LlavaForConditionalGeneration,
            None,
            config=config,
            state_dict=weights,
            dtype=source.dtype or weights[EMBEDDING].dtype,
            **attention,
        )
    if tower is not None and elsewhere:
        model.model.vision_tower = load_tower(
            tower, cache_dir=source.cache_dir, dtype=model.dtype, **attention
        )
    return model
