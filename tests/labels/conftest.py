"""The world of the extraction's tests, made once, and ranks that are forked."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from extract_world import make_world, options_of, run_rank

from llava_sea.labels.extract import extract_labels


@pytest.fixture(scope="session")
def made_world(tmp_path_factory):
    """A world that tests copy, or read and don't change."""
    folder = tmp_path_factory.mktemp("labels") / "world"
    folder.mkdir()
    make_world(folder)
    return folder


@pytest.fixture
def world(made_world, tmp_path):
    """Options for a world of the test's own."""
    shutil.copytree(made_world, tmp_path, dirs_exist_ok=True)
    return options_of(tmp_path)


@pytest.fixture(scope="session")
def labelled(made_world, tmp_path_factory):
    """Options of a finished extraction, which tests read and don't change."""
    options = options_of(made_world)
    options.output_dir = str(tmp_path_factory.mktemp("labelled"))
    extract_labels(options)
    return options


@pytest.fixture
def extracting(fork):
    """Start an extraction's ranks; `launcher` and `hosts` as in `run_rank`."""

    def start(options, count=1, launcher=None, hosts=False):
        ranks = fork(run_rank, options, launcher, hosts, count=count, wait=False)
        return [rank.process for rank in ranks]

    return start
