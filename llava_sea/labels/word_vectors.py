"""The word list's vectors on disk: encoded once, found again by a resumed run, mapped by workers.

At 4 million words and 768 dimensions the array has 12 GB; it is written in place and never held.

Shape letters: Q words, D joint dimension.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from llava_sea.errors import UserError, naming
from llava_sea.files import write_atomically
from llava_sea.labels.extraction_state import read_state
from llava_sea.labels.text_features import TextEncoder

logger = logging.getLogger(__name__)


class WordVectors(NamedTuple):
    """Where the vectors are, and how many words were too long to have one (their rows are zero)."""

    path: str
    num_too_long: int

    def load(self, device: str | torch.device) -> Tensor:
        """Map the vectors (copy-on-write: processes of a machine share the pages); ``(Q, D)``."""
        return torch.from_numpy(np.load(self.path, mmap_mode="c")).to(device)


def encode_to_disk(
    folder: Path,
    texts: TextEncoder,
    words: list[str],
    template: str,
    progress: Callable[[int], None] | None = None,
) -> WordVectors:
    """Encode the words into `folder`, unless an earlier run did.

    Args:
        folder: belongs to one extraction, hence to one word list, encoder and template.
        texts: the text encoder.
        words: the word list.
        template: the prompt, with one ``{}``.
        progress: called with the number of words done since the last call.

    Raises:
        UserError: if no word fits the text tower.
    """
    path, note = folder / "words.npy", folder / "words.json"
    if note.is_file() and path.is_file():  # the note is written last
        return WordVectors(str(path), read_state(note, "too_long")["too_long"])
    if progress is not None:
        progress(0)
    temporary = folder / "words.tmp.npy"
    array_QD = _new_array(temporary, (len(words), texts.joint_size))
    too_long = texts.encode_words(
        words, template=template, out_QD=array_QD, progress=progress
    ).too_long
    if len(too_long) == len(words):
        raise UserError(f"every word is longer than the text tower's {texts.max_length} tokens")
    if too_long:
        logger.warning(
            "%d of %d words are longer than the text tower's %d tokens and can be no label: %s%s",
            len(too_long),
            len(words),
            texts.max_length,
            ", ".join(map(repr, too_long[:5])),
            " ..." if len(too_long) > 5 else "",
        )
    array_QD.flush()
    del array_QD
    os.replace(temporary, path)
    write_atomically(note, json.dumps({"too_long": len(too_long)}).encode())
    return WordVectors(str(path), len(too_long))


def _new_array(path: Path, shape: tuple[int, int]) -> Any:
    """Make a float32 array on disk, its room reserved: a mapped write to a full disk is fatal."""
    with naming(path):
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        if hasattr(os, "posix_fallocate"):
            with open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
