"""What each stage hands to the run: model, data, and what writes and measures it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from llava_sea.data.collator import Collator
from llava_sea.data.dataset import LazySupervisedDataset
from llava_sea.model.wrapped import WrappedLlava
from llava_sea.train.callbacks import MeasureAlignment
from llava_sea.train.saving import Saver

PickAttention = Callable[[torch.dtype], str]
"""Names the attention for weights of a dtype."""


@dataclass
class Prepared:
    """Everything that a trainer needs and that the flags decide."""

    model: WrappedLlava
    dataset: LazySupervisedDataset
    collator: Collator
    saver: Saver
    measure: MeasureAlignment | None = None
