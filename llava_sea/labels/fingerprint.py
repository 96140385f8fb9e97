"""Which vision encoder is this? A short answer that survives renaming, moving and casting.

Labels belong to the encoder whose patches they describe. A folder's name says little, so labels
and training compare a hash of the patch embedding (rounded to bfloat16, so that a float32 and a
bfloat16 copy agree) and of the shape of the tower. Limit: two towers that share their patch
embedding and differ in later layers only (a tower tuned with its first layer frozen) look the same.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor

_SHAPE_FIELDS = ("hidden_size", "num_hidden_layers", "patch_size", "image_size")


def vision_fingerprint(patch_weight: Tensor, vision_config: Any) -> str:
    """Hash a vision tower's patch embedding and shape.

    Args:
        patch_weight: the patch embedding's weight, ``(hidden, 3, patch, patch)``, in float32 or
            bfloat16 (a detour over float16 can round differently).
        vision_config: the tower's configuration; hidden size, layers, patch and image size count.

    Returns:
        64 hexadecimal digits.
    """
    rounded = patch_weight.detach().to("cpu", torch.bfloat16).contiguous()
    shape = {name: getattr(vision_config, name) for name in _SHAPE_FIELDS}
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
    digest.update(rounded.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()
