"""Scenes told in words, where a question has no picture."""

from __future__ import annotations

import random

from playground.scene import Scene


def tell_for(rng: random.Random, scene: Scene, kind: str) -> str:
    """Tell a scene in words; with places where the question is about them."""
    from playground.documents import describe  # needs torch, which pictures do not

    while True:
        told = describe(rng, scene)
        if kind != "place" or "top " in told or "bottom " in told:
            return told


def context_line(hint: str) -> str:
    """Return ScienceQA's line of context, or nothing."""
    return f"Context: {hint}" if hint else ""
