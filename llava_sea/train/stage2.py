"""Stage 2: the LLM and projector, or adapters, trained on conversations.

The model is put together from an LLM, a tower and stage 1's projector, or it is a LLaVA already
(``--model_name_or_path`` of LLaVA's finetune_task scripts): what the folder holds decides.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase
from transformers.integrations import is_deepspeed_zero3_enabled

from llava_sea.data.collator import Collator
from llava_sea.data.dataset import LazySupervisedDataset
from llava_sea.data.first_pass import check_conversations, check_tokens
from llava_sea.data.image_source import ImageSource
from llava_sea.data.images import ImageTransform
from llava_sea.data.packing import PackedCollator
from llava_sea.data.records import Record
from llava_sea.data.tokenize import check_template
from llava_sea.errors import UserError
from llava_sea.model.builder import build_llava, load_tokenizer
from llava_sea.model.load import find_template, is_llava, load_llava
from llava_sea.model.lora import FINGERPRINT, add_lora, base_fingerprint
from llava_sea.model.packed import prepare_attention
from llava_sea.model.stage2 import Stage2Model, choose_trainable
from llava_sea.model.towers import first_patch
from llava_sea.train.arguments import Arguments, TrainingArguments
from llava_sea.train.precision import build_options, log_trainable
from llava_sea.train.saving import LoraSaver, Saver, WholeModelSaver, llava_config, mm_config
from llava_sea.train.trainer import Prepared

logger = logging.getLogger(__name__)


def prepare(
    records: Sequence[Record],
    images: str | ImageSource,
    transform: ImageTransform,
    arguments: Arguments,
) -> Prepared:
    """Build the model with what is trained of it, and the conversations."""
    model_args, _, _, args = arguments
    template = find_template(model_args.version, model_args.model_name_or_path, args.cache_dir)
    check_conversations(records, template)
    llava, tokenizer = load_model(arguments, template.pad)
    check_template(template, tokenizer)
    transform.check_fits(llava.config.vision_config)
    trained_parts = {
        "projector": not args.freeze_mm_mlp_adapter,
        "vision_tower": model_args.unfreeze_mm_vision_tower,
    }
    saver: Saver
    if args.lora_enable:
        fingerprint = base_fingerprint(llava.model.language_model)
        lora = add_lora(
            llava,
            rank=args.lora_r,
            alpha=args.lora_alpha,
            dropout=args.lora_dropout,
            bias=args.lora_bias,
            base=model_args.model_name_or_path,
            seed=args.seed,
            **trained_parts,
        )
        saver = LoraSaver(lora, llava_config(llava, arguments) | {FINGERPRINT: fingerprint})
    else:
        choose_trainable(llava, language_model=not model_args.freeze_backbone, **trained_parts)
        saver = WholeModelSaver(tokenizer, transform, template, mm_config(llava, arguments))
    model = Stage2Model(llava)
    if not args.deepspeed:
        model.trainable_to_float32()
    log_trainable(model)
    dataset = LazySupervisedDataset(
        records,
        images,
        transform,
        template,
        tokenizer,
        image_tokens=llava.config.image_seq_length,
        model_max_length=args.model_max_length,
        seed=args.seed,
    )
    check_tokens(dataset, model.num_rows)
    collator = Collator.of(dataset, model.num_rows)
    if args.pack_sequences:
        prepare_attention(model.language_model)
        collator = PackedCollator.of(dataset, model.num_rows)
    return Prepared(model, dataset, collator, saver)


def load_model(
    arguments: Arguments, pad: str = ""
) -> tuple[LlavaForConditionalGeneration, PreTrainedTokenizerBase]:
    """Load the model that stage 2 starts from, and its tokenizer; `pad` is the template's."""
    model_args, _, _, args = arguments
    options = build_options(arguments)
    path = model_args.model_name_or_path
    if is_llava(path):
        if model_args.pretrain_mm_mlp_adapter:
            raise UserError(
                f"--pretrain_mm_mlp_adapter: {path} is a LLaVA with a projector of its own; leave "
                "the flag out, or name the LLM alone as --model_name_or_path"
            )
        if args.bits != 16:
            raise UserError(
                f"--bits {args.bits}: only an LLM can be quantised while it is loaded, {path} is a "
                "LLaVA; use --bits 16"
            )
        loaded = load_llava(
            path,
            vision_tower=model_args.vision_tower,
            dtype=options["dtype"],
            attention=options["attention"],
            cache_dir=args.cache_dir,
        )
        layer = loaded.model.config.vision_feature_layer
        if layer != model_args.mm_vision_select_layer:
            raise UserError(
                f"--mm_vision_select_layer {model_args.mm_vision_select_layer}: {path} is a LLaVA "
                f"whose projector is fed by layer {layer}; give the flag that value"
            )
        feature = "cls_patch" if first_patch(loaded.model.config) else "patch"
        if feature != model_args.mm_vision_select_feature:
            raise UserError(
                f"--mm_vision_select_feature {model_args.mm_vision_select_feature}: {path} is a "
                f"LLaVA whose LLM reads {feature}; give the flag that value"
            )
        tokenizer = loaded.tokenizer
        tokenizer.model_max_length = args.model_max_length
        return loaded.model, tokenizer
    if not model_args.pretrain_mm_mlp_adapter:
        logger.warning(
            "no --pretrain_mm_mlp_adapter: the projector starts untrained, without stage 1"
        )
    quantised = quantization(args, options["dtype"], zero3=is_deepspeed_zero3_enabled())
    llava = build_llava(**options, llm_options=quantised)
    tokenizer = load_tokenizer(
        path,
        model_max_length=args.model_max_length,
        cache_dir=args.cache_dir,
        pad=pad,
    )
    return llava, tokenizer


def quantization(args: TrainingArguments, dtype: torch.dtype, *, zero3: bool) -> dict[str, Any]:
    """Return options for the LLM's `from_pretrained`: none at ``--bits 16``, else bitsandbytes'.

    Quantised are the LLM's linear layers without its head. Not under ZeRO-3, which would have to
    cut quantised weights into parts.

    Raises:
        UserError: without bitsandbytes, or under ZeRO-3.
    """
    if args.bits == 16:
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f'--bits {args.bits} needs bitsandbytes: pip install "llava_sea[qlora]" (or '
            "bitsandbytes), or leave the flag out for LoRA in 16 bits"
        )
    if zero3:
        raise UserError(
            f"--bits {args.bits} does not go with ZeRO-3; pass --deepspeed zero_configs/zero2.json"
        )
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=args.bits == 4,
        load_in_8bit=args.bits == 8,
        llm_int8_skip_modules=["lm_head"],
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=args.double_quant,
        bnb_4bit_quant_type=args.quant_type,
    )
    return {"quantization_config": config, "device_map": {"": args.device}}
