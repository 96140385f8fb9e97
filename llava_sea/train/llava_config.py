"""LLaVA's config.json, with the `mm_*` keys its readers look for; the parts that flags name."""

from __future__ import annotations

from typing import Any

from transformers import LlavaForConditionalGeneration

from llava_sea.train.arguments import DataArguments, ModelArguments, TrainingArguments


def llava_config(
    llava: LlavaForConditionalGeneration,
    model_args: ModelArguments,
    data_args: DataArguments,
    args: TrainingArguments,
) -> dict[str, Any]:
    """Return LLaVA's config.json: the LLM's with the `mm_*` keys, which its readers look for."""
    text_config: Any = llava.config.text_config
    return {
        **text_config.to_dict(),
        "_name_or_path": model_args.model_name_or_path,
        "model_type": f"llava_{text_config.model_type}",
        "architectures": ["LlavaForConditionalGeneration"],
        **mm_config(llava, model_args, data_args, args),
    }


def mm_config(
    llava: LlavaForConditionalGeneration,
    model_args: ModelArguments,
    data_args: DataArguments,
    args: TrainingArguments,
) -> dict[str, Any]:
    """Return the keys that LLaVA adds to its LLM's config.json, and the template's name."""
    vision_config: Any = llava.config.vision_config
    return {
        "mm_vision_tower": model_args.vision_tower or model_args.model_name_or_path,
        "use_mm_proj": True,
        "mm_projector_type": model_args.mm_projector_type,
        "mm_hidden_size": vision_config.hidden_size,
        "mm_vision_select_layer": model_args.mm_vision_select_layer,
        "mm_vision_select_feature": model_args.mm_vision_select_feature,
        "mm_patch_merge_type": model_args.mm_patch_merge_type,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": data_args.image_aspect_ratio,
        "tune_mm_mlp_adapter": model_args.tune_mm_mlp_adapter,
        "tokenizer_model_max_length": args.model_max_length,
        "tokenizer_padding_side": "right",
        "conversation_template": model_args.version,
    }


def llava_parts(model_args: ModelArguments, args: TrainingArguments) -> dict[str, Any]:
    """Return what `build_llava` takes from the flags, by name, but for dtype and attention."""
    return {
        "llm_path": model_args.model_name_or_path,
        "tower_path": str(model_args.vision_tower),
        "select_layer": model_args.mm_vision_select_layer,
        "projector_path": model_args.pretrain_mm_mlp_adapter,
        "seed": args.seed,
        "cache_dir": args.cache_dir,
    }
