"""From the command line's flags to a conversation: the model on its device, the image's pixels.

8 and 4 bits go through bitsandbytes' own layers, put in after loading, so that every kind of
checkpoint that loads can be quantised, merged LoRA ones included. The whole model passes through
the CPU's memory on the way.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
from typing import Any

import torch
from PIL import Image
from torch import nn

from llava_sea.data.tokenize import check_template
from llava_sea.errors import UserError
from llava_sea.model.load import Loaded, load_llava
from llava_sea.pretrained import pick_device
from llava_sea.serve.chat import Chat
from llava_sea.templates import Template, check_version, pick_template

logger = logging.getLogger(__name__)


def start_chat(args: argparse.Namespace, image: Image.Image) -> Chat:
    """Load what the flags name, for a conversation about an image."""
    loaded, template = load_talker(args)
    return new_chat(args, loaded, template, image)


def load_talker(args: argparse.Namespace) -> tuple[Loaded, Template]:
    """Load what the flags name, in eval mode on its device, and its conversation template."""
    if args.conv_mode is not None:  # before minutes of loading
        check_version(args.conv_mode, "--conv-mode")
    device = pick_device(args.device)
    bits = 4 if args.load_4bit else 8 if args.load_8bit else 16
    if bits < 16 and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"--load-{bits}bit: needs bitsandbytes, which is not installed: pip install "
            "'llava_sea[qlora]', or leave the flag out"
        )
    loaded = load_llava(
        args.model_path,
        model_base=args.model_base,
        vision_tower=args.vision_tower,
        cache_dir=args.cache_dir,
    )
    template = pick_template(args.conv_mode, loaded.version, loaded.tokenizer, args.model_path)
    check_template(template, loaded.tokenizer)
    if template.caption_only:
        logger.warning(
            "%s: its template is stage 1's, so it writes captions, whatever is asked",
            args.model_path,
        )
    if bits < 16:
        quantize_linear(loaded.model.model.language_model, bits, loaded.model.dtype)
    loaded.model.to(device).eval()  # type: ignore[arg-type]
    return loaded, template


def new_chat(
    args: argparse.Namespace, loaded: Loaded, template: Template, image: Image.Image
) -> Chat:
    """Begin a conversation about an image."""
    return Chat(
        loaded.model,
        loaded.tokenizer,
        template,
        loaded.transform(image),
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        debug=getattr(args, "debug", False),
    )


def quantize_linear(llm: nn.Module, bits: int, dtype: torch.dtype) -> None:
    """Put bitsandbytes' layers in the place of the LLM's linear ones, in place.

    The LLM is without its head, on the CPU; its weights shrink when it goes to its device. 8 bits
    are LLM.int8, 4 are nf4 with double quantisation (LLaVA's choice) that compute in `dtype`.
    """
    import bitsandbytes as bnb

    # It says at every product that int8 works in float16.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    for name, module in list(llm.named_modules()):
        if not isinstance(module, nn.Linear):
            continue
        shape, bias = (module.in_features, module.out_features), module.bias is not None
        layer: Any
        if bits == 8:
            layer = bnb.nn.Linear8bitLt(*shape, bias=bias, has_fp16_weights=False, device="meta")
            layer.weight = bnb.nn.Int8Params(
                module.weight.data, requires_grad=False, has_fp16_weights=False
            )
        else:
            layer = bnb.nn.Linear4bit(
                *shape, bias=bias, compute_dtype=dtype, quant_type="nf4", device="meta"
            )
            layer.weight = bnb.nn.Params4bit(
                module.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
            )
        layer.bias = module.bias
        parent, _, last = name.rpartition(".")
        setattr(llm.get_submodule(parent), last, layer)
