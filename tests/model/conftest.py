"""Small models to write and load."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parent))

import pytest
from model_world import CASES, save_llm

from tests import worlds


@pytest.fixture(scope="session")
def make_case(tiny, dinov2, tmp_path_factory):
    """Return what one of `CASES` names: a stock Llava as training has it, and its parts."""

    def make(name: str) -> SimpleNamespace:
        kind, legacy, tower, aspect_ratio, version = CASES[name]
        llm = save_llm(tiny, tmp_path_factory.mktemp("llm"), kind, legacy=legacy)
        tower_path = dinov2 if tower == "dinov2" else getattr(tiny, tower)
        return worlds.llava_parts(llm, tower_path, aspect_ratio, version)

    return make


@pytest.fixture(scope="session")
def case(make_case) -> SimpleNamespace:
    """The case that most tests use; none changes it."""
    return make_case("clip-pad-v1")
