"""Fit a DINOv2 to another picture size, and its processor to CLIP's view of a picture.

`python scripts/fit_dinov2.py --model facebook/dinov2-large --size 224 --output_dir DIR`: the hub's
models have position embeddings for 518 pixels, which the model itself interpolates at every other
size; here that is done once and kept, so that configuration and grid agree (16 x 16 patches at
224). The hub's processor resizes to 256 and crops to 224; here the shorter side becomes the crop's,
as CLIP's does, so that CLIP's patch labels lie where DINOv2's patches do. Limits: square pictures.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from pathlib import Path

import torch
from transformers import AutoImageProcessor, AutoModel, Dinov2Model

from llava_sea.errors import UserError, naming, run_command
from llava_sea.files import remove_left_overs
from llava_sea.pretrained import load_pretrained


def fit(model: Dinov2Model, size: int) -> Dinov2Model:
    """Return the same model for pictures of `size` pixels; at that size it computes the same.

    Raises:
        UserError: if patches do not fill such a picture.
    """
    patch = int(model.config.patch_size)
    if size < patch or size % patch:
        raise UserError(f"--size {size}: must be a multiple of the patch side, {patch}")
    tokens = torch.zeros(1, (size // patch) ** 2 + 1, model.config.hidden_size)
    with torch.no_grad():
        positions = model.embeddings.interpolate_pos_encoding(tokens, size, size)
    config = type(model.config)(**model.config.to_dict() | {"image_size": size})
    fitted = Dinov2Model(config)
    state = model.state_dict() | {"embeddings.position_embeddings": positions}
    fitted.load_state_dict(state)
    return fitted


def main(arguments: list[str] | None = None) -> None:
    """Write the folder; it appears whole or not at all."""
    parser = argparse.ArgumentParser(description="Fit a DINOv2 to another picture size.")
    parser.add_argument("--model", required=True, help="DINOv2: a folder or hub id")
    parser.add_argument("--size", type=int, default=224, help="side of the pictures in pixels")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the result")
    options = parser.parse_args(arguments)
    output: Path = options.output_dir
    if output.exists():
        raise UserError(f"--output_dir {output}: exists; remove it or give another")
    try:
        model = load_pretrained(AutoModel, options.model)
        processor = load_pretrained(AutoImageProcessor, options.model, backend="pil")
    except (OSError, ValueError) as error:
        raise UserError(f"--model {options.model}: {str(error).splitlines()[0]}") from None
    if not isinstance(model, Dinov2Model):
        raise UserError(f"--model {options.model}: is a {model.config.model_type}, not a dinov2")
    fitted = fit(model, options.size)
    processor.size = {"shortest_edge": options.size}
    processor.crop_size = {"height": options.size, "width": options.size}
    output.parent.mkdir(parents=True, exist_ok=True)
    begin = f".{output.name}-"
    remove_left_overs(output.parent, rf"{re.escape(begin)}(\d+)-\w+")
    with (
        tempfile.TemporaryDirectory(prefix=f"{begin}{os.getpid()}-", dir=output.parent) as work,
        naming(output),
    ):
        folder = Path(work) / output.name
        fitted.save_pretrained(folder)
        processor.save_pretrained(folder)
        os.replace(folder, output)
    print(f"{output} is ready: {options.model} for {options.size} pixels")


if __name__ == "__main__":
    run_command(main)
