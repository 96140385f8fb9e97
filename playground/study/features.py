"""The vision tower's work, done once: features of pictures, and a tower that hands them on.

Stage 1 freezes the tower and its pictures do not change, so every run would compute the same
features again. They are the hidden state that LLaVA selects (-2), without the class token. A run's
"pixels" are these features; `PassThroughTower` returns them as the hidden state that is asked for,
so `Stage1Model` and the Llava inside it run unchanged.

Shape letters: I pictures, P patches, D the tower's hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from llava_sea.files import open_atomically
from llava_sea.model.towers import load_tower, prefix_tokens

SELECT_LAYER = -2
_BATCH = 64


class PassThroughTower(nn.Module):
    """Takes features for pixels and gives them back as every hidden state."""

    def __init__(self, config: Any) -> None:
        """Keep the real tower's config."""
        super().__init__()
        self.config = config
        # Stage1Model casts pixels to the tower's type: float32, whatever the LLM is in.
        self.dtype_holder = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Return the features ``(I, P, D)`` where the selected layer is looked for.

        A zero stands in the place of the class token, which a Llava cuts off.
        """
        hidden = {SELECT_LAYER: pad(pixel_values, (0, 0, 1, 0))}
        return BaseModelOutputWithPooling(hidden_states=hidden)  # type: ignore[arg-type]


def use_features(llava: LlavaForConditionalGeneration) -> None:
    """Put the stand-in tower into a Llava."""
    llava.model.vision_tower = PassThroughTower(llava.config.vision_config)


def write_features(path: Path, clip: Path, pixels: Iterable[Tensor], count: int) -> None:
    """Run the tower over pictures ``(3, H, W)`` and write ``features_IPD``, whole or not at all."""
    tower = load_tower(str(clip)).eval()
    features_IPD: NDArray[np.float32] | None = None
    done = 0
    for batch_IPD in _encode(tower, iter(pixels)):
        if features_IPD is None:
            features_IPD = np.empty((count, *batch_IPD.shape[1:]), np.float32)
        features_IPD[done : done + len(batch_IPD)] = batch_IPD
        done += len(batch_IPD)
    assert features_IPD is not None and done == count, f"{done} of {count} pictures came"
    with open_atomically(path) as file:
        np.save(file, features_IPD)


@torch.no_grad()
def _encode(tower: Any, pixels: Iterator[Tensor]) -> Iterator[NDArray[np.float32]]:
    first = prefix_tokens(tower.config)
    while batch := list(islice(pixels, _BATCH)):
        output = tower(torch.stack(batch), output_hidden_states=True)
        yield output.hidden_states[SELECT_LAYER][:, first:].numpy()


def read_features(path: Path) -> NDArray[np.float32]:
    """Map a features file; several processes share its memory."""
    features: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return features
