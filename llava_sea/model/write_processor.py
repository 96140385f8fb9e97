"""Tokenizer, image processor and processor files of a written checkpoint.

A model trained on padded pictures gets the image processor that pads (`LlavaImageProcessor`), one
trained on centre crops its tower's own. Settings are written so that transformers 4 reads them too.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import LlavaConfig, PreTrainedTokenizerBase
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from llava_sea.constants import IMAGE_TOKEN
from llava_sea.data.images import ImageTransform
from llava_sea.model.builder import TOWER_HAS_CLS
from llava_sea.model.load_tokenizer import keep_legacy
from llava_sea.model.load_weights import read_json

_OF_THIS_MACHINE = ("is_local", "local_files_only", "name_or_path")


def with_image_token(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a copy with the token ``<image>``, padding on the left as generation needs it."""
    # the class's second copy of the vocabulary is never changed (half the time with Gemma's)
    shared = [part for part in (vars(tokenizer).get(n) for n in ("_vocab", "_merges")) if part]
    written = copy.deepcopy(tokenizer, {id(part): part for part in shared})
    written.add_tokens(
        [AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True
    )
    written.padding_side = "left"
    return written


def write_tokenizer(folder: Path, tokenizer: Any, chat_template: str) -> None:
    """Write the tokenizer and the chat template."""
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    content = {k: v for k, v in read_json(path).items() if k not in _OF_THIS_MACHINE}
    extra = content.get("extra_special_tokens")
    if isinstance(extra, list):  # transformers 4 takes a dictionary under this name only
        content["additional_special_tokens"] = content.pop("extra_special_tokens")
    if content.get("tokenizer_class") == "TokenizersBackend":  # its name before transformers 5
        content["tokenizer_class"] = "PreTrainedTokenizerFast"
    # transformers 4 puts a BOS before every text of a Llama tokenizer that does not say otherwise.
    content["add_bos_token"] = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    content["processor_class"] = "LlavaProcessor"
    content["model_input_names"] = ["input_ids", "attention_mask"]  # transformers 4 adds a third
    _write_json(path, content)
    legacy = getattr(tokenizer, "legacy", None)
    if legacy is not None:
        keep_legacy(folder, bool(legacy))
    (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")


def write_processor(folder: Path, transform: ImageTransform, config: LlavaConfig) -> None:
    """Write ``preprocessor_config.json`` and ``processor_config.json``."""
    image_processor = transform.processor
    if transform.aspect_ratio == "pad":
        image_processor = _padding(transform)
    content = image_processor.to_dict()
    content["image_processor_type"] = content["image_processor_type"].removesuffix("Pil")
    content["processor_class"] = "LlavaProcessor"
    _write_json(folder / "preprocessor_config.json", content)

    vision_config: Any = config.vision_config
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": IMAGE_TOKEN,
        "patch_size": vision_config.patch_size,
        "num_additional_image_tokens": int(TOWER_HAS_CLS[vision_config.model_type]),
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
    }
    _write_json(folder / "processor_config.json", processor)


def _padding(transform: ImageTransform) -> Any:
    """Return transformers' processor that pads first and then does what the tower's does."""
    tower: Any = transform.processor
    height, width = transform.resolution
    return LlavaImageProcessorPil(
        do_pad=True,
        do_resize=True,
        size=dict(tower.size),
        resample=tower.resample,
        do_center_crop=bool(tower.do_center_crop),
        crop_size={"height": height, "width": width},
        do_rescale=tower.do_rescale,
        rescale_factor=tower.rescale_factor,
        do_normalize=tower.do_normalize,
        image_mean=tower.image_mean,
        image_std=tower.image_std,
        do_convert_rgb=True,
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
