"""Fit a vision tower to another size of images, or a SigLIP 2 for all shapes to one square.

`python scripts/fit_tower.py --model facebook/dinov2-large --size 224 --output_dir DIR` writes a
copy whose configuration, position embeddings and image processor agree on one grid of patches:

DINOv2, with registers or without: the hub's have position embeddings for 518 pixels, which the
    model itself interpolates at every other size; here that is done once and kept. The hub's
    processor resizes to 256 and crops to 224; here the shorter side becomes the crop's, as CLIP's
    does, so that CLIP's patch labels lie where DINOv2's patches do.
TIPSv2: its position embeddings likewise (448 pixels on the hub), the text tower beside it.
DINOv3: only its configuration and processor name a size.
SigLIP 2 NaFlex: a SigLIP for a square, which computes what the NaFlex does at that grid; a stock
    llava, vLLM and the labels know it.

`--view crop` makes the processor of one that stretches images (TIPSv2, DINOv3, SigLIP 2) show what
CLIP's does: resized by the shorter side, then cut. Labels can be carried only between towers that
see the same part of an image. Limits: square images.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, SiglipConfig, SiglipModel

from llava_sea.data.images import MAX_SIDE, load_processor
from llava_sea.errors import UserError, naming, run_command
from llava_sea.files import check_folder, remove_left_overs
from llava_sea.labels.text_features import tokenizer_of
from llava_sea.model.load_weights import check_exists, check_model
from llava_sea.pretrained import load_pretrained

TABLE = "embeddings.position_embeddings"


def table(vision: Any, size: int) -> dict[str, Tensor]:
    """Return the position embeddings that a tower of DINOv2's build interpolates at a size."""
    tokens = torch.zeros(1, (size // vision.config.patch_size) ** 2 + 1, vision.config.hidden_size)
    return {TABLE: vision.embeddings.interpolate_pos_encoding(tokens, size, size)}


def from_naflex(vision: Any, size: int) -> dict[str, Tensor]:
    """Return a NaFlex's embeddings as a SigLIP has them: a convolution, positions of one grid."""
    own, patch = vision.embeddings, vision.config.patch_size
    grid = size // patch
    weight = own.patch_embedding.weight.unflatten(1, (patch, patch, -1)).permute(0, 3, 1, 2)
    positions = own.position_embedding.weight.unflatten(0, (own.position_embedding_size, -1))
    shape = torch.tensor([[grid, grid]])
    positions = own.resize_positional_embeddings(positions, shape, max_length=grid * grid)[0]
    return {
        "embeddings.patch_embedding.weight": weight,
        "embeddings.position_embedding.weight": positions,
    }


FITS: dict[str, Any] = {
    "dinov2": table,
    "dinov2_with_registers": table,
    "tipsv2": table,
    "dinov3_vit": lambda vision, size: {},
    "siglip2": from_naflex,
}
"""By `model_type`: what of the vision tower's weights changes."""


@torch.no_grad()
def fit(model: Any, size: int) -> Any:
    """Return the same model for images of `size` pixels; at that size it computes the same.

    Raises:
        UserError: if patches do not fill such an image, or the model is of another kind.
    """
    kind = model.config.model_type
    if kind not in FITS:
        raise UserError(f"a {kind} has one size, or is not known; known are {', '.join(FITS)}")
    settings = model.config.to_dict()
    is_pair = "vision_config" in settings
    vision, prefix = (model.vision_model, "vision_model.") if is_pair else (model, "")
    patch = vision.config.patch_size
    if not isinstance(patch, int):
        raise UserError(f"config.json: patch_size {patch} is not one number; only such are fitted")
    if size > MAX_SIDE:
        raise UserError(f"--size {size}: {MAX_SIDE:,} pixels at most")
    if size < patch or size % patch:
        raise UserError(f"--size {size}: must be a multiple of the patch side, {patch}")
    (settings["vision_config"] if is_pair else settings)["image_size"] = size
    kinds: tuple[Any, Any] = (type(model.config), type(model))
    if kind == "siglip2":
        kinds = (SiglipConfig, SiglipModel)
        del settings["model_type"], settings["vision_config"]["num_patches"]
        for part in ("vision_config", "text_config"):
            settings[part]["model_type"] = settings[part]["model_type"].replace("siglip2", "siglip")
    fitted = kinds[1](kinds[0](**settings))
    changed = {prefix + name: value for name, value in FITS[kind](vision, size).items()}
    fitted.load_state_dict(model.state_dict() | changed)
    return fitted


def set_size(processor: Any, size: int, *, crop: bool) -> None:
    """Let a processor make squares of `size` pixels, cut out where it did so or `crop` says so."""
    square = {"height": size, "width": size}
    if crop or "shortest_edge" in dict(processor.size):
        processor.size, processor.crop_size = {"shortest_edge": size}, square
        processor.do_center_crop = True
    else:
        processor.size = square


def main(arguments: list[str] | None = None) -> None:
    """Write the folder; it appears whole or not at all."""
    parser = argparse.ArgumentParser(description="Fit a vision tower to another size of images.")
    parser.add_argument("--model", required=True, help=f"{', '.join(FITS)}: a folder or hub id")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--view", choices=("own", "crop"), default="own", help="crop: CLIP's view")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the result")
    options = parser.parse_args(arguments)
    output: Path = options.output_dir
    if output.exists() or output.is_symlink():
        raise UserError(f"--output_dir {output}: exists; remove it or give another")
    check_folder(output.parent, "--output_dir")
    check_exists(options.model, "--model")
    try:
        check_model(options.model)
        model, report = load_pretrained(AutoModel, options.model, output_loading_info=True)
        if report["missing_keys"]:
            raise UserError(f"weights are missing: {sorted(report['missing_keys'])[:5]}")
        processor = load_processor(options.model)
        fitted = fit(model, options.size)
        is_pair = hasattr(fitted.config, "text_config")
        tokenizer = tokenizer_of(options.model, fitted.config.model_type) if is_pair else None
    except (OSError, ValueError) as error:
        raise UserError(f"--model {options.model}: {str(error).splitlines()[0]}") from None
    set_size(processor, options.size, crop=options.view == "crop")
    output.parent.mkdir(parents=True, exist_ok=True)
    begin = f".{output.name}-"
    remove_left_overs(output.parent, rf"{re.escape(begin)}(\d+)-\w+")
    with (
        tempfile.TemporaryDirectory(prefix=f"{begin}{os.getpid()}-", dir=output.parent) as work,
        naming(output),
    ):
        folder = Path(work) / output.name
        for part in filter(None, (fitted, processor, tokenizer)):
            part.save_pretrained(folder)
        os.replace(folder, output)
    print(f"{output} is ready: {options.model} for {options.size} pixels")


if __name__ == "__main__":
    run_command(main)
