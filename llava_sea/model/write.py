"""Checkpoints out; not written yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write_llava(folder: Path, model: Any, *parts: Any, **options: Any) -> None:
    """Write a LLaVA."""
    raise NotImplementedError(str(folder))
